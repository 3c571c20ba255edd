"""Predicting with an exported file: numpy and onnxruntime, guided by the file's metadata alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ssdlite.deploy.metadata import OUTPUT_NAMES, ModelCard, from_properties
from ssdlite.deploy.postprocess import class_scores, decode_boxes, select_detections
from ssdlite.errors import CheckpointError
from ssdlite.structures import Batch, Detections

ERRORS_ONLY = 3  # onnxruntime's severity


class OnnxPredictor:
    """Batch -> the Detections of each image, in pixels of the original images. Runs on the CPU.

    Args:
        path: a file of `export_onnx`, with any head.
        threads: of one operator; None leaves it to onnxruntime (one a physical core).

    Raises CheckpointError for a file that is missing, broken or not ours.
    """

    def __init__(self, path: Path | str, threads: int | None = None) -> None:
        self.session = _open(Path(path), threads)
        self.card: ModelCard = from_properties(self.session.get_modelmeta().custom_metadata_map, source=str(path))
        _require_fit(self.session, self.card, path)
        self.batch_size: int | None = _fixed_batch(self.session)
        """Images of one run, None if any number will do."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """`class_names[label - 1]` for the labels of Detections."""
        return self.card.class_names

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.card.input_size

    @property
    def metadata(self) -> dict[str, Any]:
        return self.card.document

    @property
    def config(self) -> dict[str, Any]:
        """The options that the network was trained with."""
        return self.card.document["config"]

    def __call__(self, batch: Batch) -> list[Detections]:
        outputs = self.run(np.asarray(batch.images))
        height, width = self.input_size
        scales = [(w / width, h / height, w / width, h / height) for h, w in batch.original_sizes]
        return [
            found._replace(boxes=found.boxes * np.array(scale, np.float32))
            for found, scale in zip(self.select(outputs), scales, strict=True)
        ]

    def run(
        self, images: np.ndarray, batch_size: int | None = None, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs of the file by name, for (N, 3, H, W) RGB pixels 0..255 of any type; N may be 0.

        `names` are those that its head has if None. Runs `batch_size` images at a time: by default as many as the
        file is fixed to, or all.
        """
        assert images.shape[1:] == (3, *self.input_size), f"{images.shape} is not (N, 3, *{self.input_size})"
        assert self.batch_size in (None, batch_size) or batch_size is None
        size = batch_size or self.batch_size or max(1, len(images))
        names = names or OUTPUT_NAMES[self.card.head]
        runs = [
            self.session.run(names, {"images": _padded(images[start : start + size], size, self.batch_size)})
            for start in range(0, max(1, len(images)), size)  # at least one run, for the shapes
        ]
        outputs = (np.concatenate(parts)[: len(images)] for parts in zip(*runs, strict=True))
        return dict(zip(names, outputs, strict=True))

    def select(self, outputs: dict[str, np.ndarray]) -> Iterator[Detections]:
        """Outputs of `run` -> the detections of each image, in input pixels."""
        match self.card.head:
            case "nms":
                rows = zip(*(outputs[name] for name in OUTPUT_NAMES["nms"]), strict=True)
                for boxes, scores, labels, count in rows:
                    yield Detections(boxes[:count], scores[:count], labels[:count] + 1)
            case "decoded":
                for boxes, scores in zip(outputs["boxes"], outputs["scores"], strict=True):
                    yield select_detections(boxes, scores, self.card.selection, self.input_size)
            case "raw":
                priors, variances, activation = self.card.priors, self.card.variances, self.card.score_activation
                assert priors is not None and variances is not None and activation is not None
                for logits, deltas in zip(outputs["logits"], outputs["deltas"], strict=True):
                    boxes = decode_boxes(deltas, priors, variances, self.input_size)
                    scores = class_scores(logits, activation)
                    yield select_detections(boxes, scores, self.card.selection, self.input_size)


def _open(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    try:
        if not path.is_file():  # a folder or a pipe is none either
            raise CheckpointError(f"there is no model file {path}.")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for node in (*session.get_inputs(), *session.get_outputs()):
            _ = node.name, node.shape  # raises here if it is no text, and so does the next
        _ = session.get_modelmeta().custom_metadata_map
        return session
    except Exception as error:  # its exceptions have no common base
        reason = "".join(filter(str.isprintable, " ".join(str(error).split())))[-200:]
        raise CheckpointError(f"{path} cannot be loaded by onnxruntime: {reason}") from None


def _require_fit(session: onnxruntime.InferenceSession, card: ModelCard, path: Path | str) -> None:
    """Raises CheckpointError if the network is not what its metadata says: someone changed one of the two."""
    inputs, outputs = session.get_inputs(), {output.name for output in session.get_outputs()}
    is_ours = len(inputs) == 1 and inputs[0].name == "images" and outputs.issuperset(OUTPUT_NAMES[card.head])
    shape = inputs[0].shape if is_ours else []
    sides = zip(shape[2:], card.input_size, strict=False)
    if len(shape) != 4 or any(isinstance(side, int) and side != expected for side, expected in sides):
        raise CheckpointError(
            f"{path} has damaged metadata: its network is not one of head '{card.head}' for "
            f"{card.input_size[1]}x{card.input_size[0]} pixels; export the checkpoint again."
        )


def _fixed_batch(session: onnxruntime.InferenceSession) -> int | None:
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) else None


def _padded(images: np.ndarray, size: int, fixed: int | None) -> np.ndarray:
    """float32, and with black images up to `size` where the file asks for that many or none is there."""
    missing = size - len(images) if fixed is not None or not len(images) else 0
    return np.pad(images.astype(np.float32), ((0, missing), (0, 0), (0, 0), (0, 0)))
