"""Report of a loss that is not finite: the batch, a picture of it, and the probable cause."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdlite.drawing import draw_detections, make_grid, write_image
from ssdlite.io import write_text
from ssdlite.losses.recipes import Criterion
from ssdlite.structures import Batch, CornerOutput, DetectorOutput
from ssdlite.training.checkpoint import write_whole
from ssdlite.training.step import TrainStep

CELL = (320, 320)  # pixels of each image in the picture


COLUMNS = 4


@torch.no_grad()
def record_failure(
    folder: Path, step: TrainStep, batch: Batch, class_names: Sequence[str], facts: Mapping[str, Any]
) -> str:
    """Write batch.pt, images.jpg and report.json into `folder`; the probable cause as half a sentence.

    The network looks at `batch`, on the step's device, once more, as it does in evaluation.

    Args:
        facts: what else to report, such as step, loss and learning rate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = _assess(step, batch)
    terms = [_terms(step, output, batch, i) for i in range(len(batch.images))]
    cause = _find_cause(step, batch, output, terms)
    content: dict[str, Any] = {
        "images": batch.images.cpu(),
        "boxes": batch.boxes.cpu(),
        "labels": batch.labels.cpu(),
        "ignore": batch.ignore.cpu(),
        "image_ids": batch.image_ids,
        "indices": batch.indices,
    }
    positives: list[int] | None = None
    if isinstance(step.criterion, Criterion) and not isinstance(output, CornerOutput):
        assignment = step.criterion.assign(output, batch.boxes, batch.labels, batch.ignore)
        content["assigned_labels"] = assignment.labels.cpu()
        positives = (assignment.labels > 0).sum(dim=1).tolist()
    write_whole(folder / "batch.pt", content)
    images = [
        {
            "image_id": batch.image_ids[i],
            "objects": int((batch.labels[i] > 0).sum()),
            "boxes": batch.boxes[i][batch.labels[i] > 0].tolist(),
            "positive_priors": None if positives is None else positives[i],
            "terms": terms[i],
        }
        for i in range(len(batch.images))
    ]
    report = {**facts, "culprit": cause, "precision": str(step.dtype).removeprefix("torch."), "images": images}
    write_text(folder / "report.json", json.dumps(_plain(report), indent=2, ensure_ascii=False) + "\n")
    write_image(folder / "images.jpg", _picture(batch, class_names))
    return cause


def _find_cause(step: TrainStep, batch: Batch, output: DetectorOutput, terms: Sequence[Mapping[str, float]]) -> str:
    """The first of the usual causes that is there, in the order in which one leads to the next."""
    for i, image_id in enumerate(batch.image_ids):
        for box in batch.boxes[i][batch.labels[i] > 0]:
            if not box.isfinite().all() or (box[2:] <= box[:2]).any():
                return f"image {image_id} has the box {[round(x, 2) for x in box.tolist()]}"
    if name := _first_not_finite(step.model):
        return f"{name} of the network is not finite itself: an earlier step made it so; lower optim.lr"
    if not _is_finite(output):
        if step.dtype is not torch.float32 and _is_finite(step.model.eval()(batch.images)):
            return (
                f"{str(step.dtype).removeprefix('torch.')} is too narrow for this network; set train.precision=fp32"
            )
        return "the network's answer is not finite although its weights are; lower optim.lr"
    for image_id, one in zip(batch.image_ids, terms, strict=True):
        for name, value in one.items():
            if not math.isfinite(value):
                return f"image {image_id} alone gives a {name} loss of {value}"
    return (
        "seen once more, every image gives a finite loss, so it was the gradient; lower optim.lr or train.clip_norm"
    )


def _assess(step: TrainStep, batch: Batch) -> DetectorOutput:
    """The output without gathering statistics."""
    was_training = step.model.training
    step.model.eval()
    with step.autocast():  # not `step.forward`, whose compiled network would be compiled anew for evaluation
        output = step.model(batch.images.contiguous(memory_format=torch.channels_last))
    step.model.train(was_training)
    return output


def _terms(step: TrainStep, output: DetectorOutput, batch: Batch, index: int) -> dict[str, float]:
    """The loss terms of one image by itself."""
    one = slice(index, index + 1)
    names = ("heatmaps", "embeddings", "offsets") if isinstance(output, CornerOutput) else ("logits", "deltas")
    part = output._replace(**{name: getattr(output, name)[one] for name in names})
    terms = step.criterion(part, batch.boxes[one], batch.labels[one], batch.ignore[one])
    return {name: float(term) for name, term in terms.items()}


def _is_finite(output: DetectorOutput) -> bool:
    return all(bool(field.isfinite().all()) for field in output if isinstance(field, Tensor))


def _first_not_finite(model: nn.Module) -> str | None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return name
    return None


def _picture(batch: Batch, class_names: Sequence[str]) -> Any:
    pictures = []
    for i, image in enumerate(batch.images.cpu().permute(0, 2, 3, 1).contiguous().numpy()):
        there = (batch.labels[i] > 0) & batch.boxes[i].isfinite().all(dim=1)
        boxes, labels = batch.boxes[i][there].cpu().numpy(), batch.labels[i][there].cpu().numpy()
        pictures.append(draw_detections(image, boxes, labels, class_names))
    return make_grid(pictures, columns=COLUMNS, cell_size=CELL)


def _plain(value: Any) -> Any:
    """Return a value with "nan" and "inf" as text, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
