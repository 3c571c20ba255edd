"""Network, decoding, augmentation and the training step on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from ssdlite import boxes as box_ops
from ssdlite import build
from ssdlite.benchmark.evaluation import simulate_output
from ssdlite.benchmark.gpu.cases import (
    CPU,
    make_batch,
    make_config,
    make_images,
    make_network,
    make_output,
    make_step,
    output_to,
    read_photos,
    switch_off_tf32,
)
from ssdlite.benchmark.gpu.tasks import Findings, Outcome, Setting
from ssdlite.benchmark.workload import start_epoch, take_step
from ssdlite.data.device import finish_images
from ssdlite.structures import Detections, DetectorOutput, HeadOutput
from ssdlite.training.prefetch import on_device

STEPS_OF = ("loss=multibox", "loss=focal", "loss=sampled", "loss=quality", "model.head=corner")
PRECISIONS = ("bf16", "fp32", "fp16")
NETWORK_TOLERANCE = 1e-6  # of float64
LEAST_COSINE = {torch.float32: 0.95, torch.bfloat16: 0.3}
"""Least cosine of gradients to those in float64: on a CPU, at full size, .994 and .56; of unrelated ones 0."""
BOX_TOLERANCE, SCORE_TOLERANCE = 0.05, 1e-4  # pixels; of detections that are the same
LOST = 0.005  # share of detections that rounding may decide on
APART_BY_ONE, MEAN_APART = 0.999, 0.05  # share of values within one level; levels


def check_network(setting: Setting) -> Outcome:
    """Outputs and gradients of both heads: in float64 those of the CPU, in other types of the same direction.

    Only float64 can be held to a tight bound: a network of fresh weights magnifies rounding, so that another order
    of sums changes its gradient in float32 by 8 % of its length.
    """
    switch_off_tf32()
    findings = Findings()
    images = make_images(setting.sizes.images, setting.sizes.side)
    for head in ("ssdlite", "corner"):
        expected, expected_gradient = _learn(setting, head, images, CPU, torch.float64)
        with findings.case(f"{head}, float64"):
            found, gradient = _learn(setting, head, images, setting.device, torch.float64)
            for name, ours, theirs in zip(expected._fields, found, expected, strict=True):
                if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
                    findings.close(f"{head}: {name}", ours, theirs, tolerance=NETWORK_TOLERANCE)
            findings.close(f"{head}: gradient", gradient, expected_gradient, tolerance=NETWORK_TOLERANCE)
        for dtype, least in LEAST_COSINE.items():
            name = f"{head}: gradient in {str(dtype).removeprefix('torch.')}"
            with findings.case(name):
                _, gradient = _learn(setting, head, images, setting.device, dtype)
                cosine = nn.functional.cosine_similarity(gradient, expected_gradient, dim=0).item()
                findings.holds(
                    name,
                    cosine >= least,
                    f"points elsewhere: its cosine to that in float64 is {cosine:.3f}, {least:g} or more is needed",
                    cosine=cosine,
                )
    return findings.outcome()


def _learn(
    setting: Setting, head: str, images: Tensor, device: torch.device, dtype: torch.dtype
) -> tuple[DetectorOutput, Tensor]:
    """The output for `images`, and all gradients of its mean square in a row (N,) float64, on the CPU."""
    network = make_network(make_config(setting, f"model.head={head}"), setting, device).train()
    if dtype is torch.float64:
        network.double()
    with torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        output = network(images.to(device).contiguous(memory_format=torch.channels_last))
    learnt = [each for each in output if isinstance(each, Tensor) and each.requires_grad]
    torch.stack([each.double().square().mean() for each in learnt]).sum().backward()
    gradients = [each.grad.flatten().double().cpu() for each in network.parameters() if each.grad is not None]
    return output, torch.cat(gradients)


def check_decoder(setting: Setting) -> Outcome:
    """Known boxes come back as they are, and simulated outputs give the detections that they give on the CPU."""
    findings, sizes = Findings(), setting.sizes
    size = (sizes.side, sizes.side)
    originals = [(2 * sizes.side, 3 * sizes.side)] * sizes.images
    decoder = build.build_decoder(make_config(setting).eval, size)
    with findings.case("known boxes"):
        output, boxes = _known_output(setting)
        found = decoder(output_to(output, setting.device), originals)
        scaled = boxes.numpy() * (3, 2, 3, 2)
        counts = [int((each.scores > 0.5).sum()) for each in found]
        findings.holds("known boxes: number", set(counts) == {len(boxes)}, f"{counts} of {len(boxes)} came back")
        nearest = [
            np.abs(one.boxes[one.scores > 0.5][:, None] - scaled[None]).max(-1).min(0).max()
            for one in found
            if (one.scores > 0.5).any()
        ]
        apart = float(max(nearest, default=np.inf))
        findings.holds(
            "known boxes: place", apart < BOX_TOLERANCE, f"off by {apart:.3g} pixels", **{"pixels off": apart}
        )
    for activation in ("softmax", "sigmoid"):
        with findings.case(activation):
            output = simulate_output(make_output(setting, activation))
            expected = decoder(output, originals)
            found = decoder(output_to(output, setting.device), originals)
            _same_detections(findings, f"simulated, {activation}", found, expected)
    with findings.case("corner head"):
        config = make_config(setting, "model.head=corner")
        images = make_images(sizes.images, sizes.side)
        network = make_network(config, setting, CPU).eval()
        with torch.no_grad():
            corner = network(images)
        noise = torch.randn(corner.heatmaps.shape, generator=torch.Generator().manual_seed(0))
        corner = corner._replace(heatmaps=2 * noise, offsets=corner.offsets.clamp(0, 1))
        moved = corner._replace(
            heatmaps=corner.heatmaps.to(setting.device),
            embeddings=corner.embeddings.to(setting.device),
            offsets=corner.offsets.to(setting.device),
        )
        _same_detections(findings, "corner head", decoder(moved, originals), decoder(corner, originals))
    return findings.outcome()


def _known_output(setting: Setting) -> tuple[HeadOutput, Tensor]:
    """An output that says the same six boxes (6, 4) in every image, one a prior, and surely nothing elsewhere."""
    output = make_output(setting, "softmax")
    side = setting.sizes.side
    starts = torch.tensor([[x, y] for y in (0.1, 0.55) for x in (0.05, 0.36, 0.67)]) * side
    boxes = torch.cat([starts, starts + torch.tensor([0.25, 0.31]) * side], dim=1)
    overlaps = box_ops.iou(boxes, box_ops.cxcywh_to_xyxy(output.priors))
    chosen: list[int] = []  # the best of each box that no other has
    for row in overlaps:
        chosen.append(next(prior for prior in row.argsort(descending=True).tolist() if prior not in chosen))
    priors = torch.tensor(chosen)
    logits = torch.full_like(output.logits, -12.0)
    logits[..., 0] = 12.0
    logits[:, priors, 0] = -12.0
    logits[:, priors, 1 + torch.arange(len(boxes)) % setting.sizes.classes] = 12.0
    deltas = torch.zeros_like(output.deltas)
    deltas[:, priors] = box_ops.encode(boxes, output.priors[priors])
    return output._replace(logits=logits, deltas=deltas), boxes


def _same_detections(findings: Findings, case: str, found: list[Detections], expected: list[Detections]) -> None:
    """All but a few detections are in both."""
    lost = sum(_without_counterpart(*pair) for pair in zip(found, expected, strict=True))
    lost += sum(_without_counterpart(*pair) for pair in zip(expected, found, strict=True))
    total = sum(len(each.scores) for each in expected)
    findings.holds(
        case,
        total > 0 and lost <= LOST * 2 * total,
        f"{lost} of twice {total} detections have no counterpart on the other device",
        detections=total,
        without_counterpart=lost,
    )


def _without_counterpart(ours: Detections, theirs: Detections) -> int:
    same = (
        (ours.labels[:, None] == theirs.labels)
        & (np.abs(ours.scores[:, None] - theirs.scores) < SCORE_TOLERANCE)
        & (np.abs(ours.boxes[:, None] - theirs.boxes).max(-1, initial=0) < BOX_TOLERANCE)
    )
    return int((~same.any(axis=1)).sum())


def check_augmentation(setting: Setting) -> Outcome:
    """Drafts of photographs, finished on the device and on the CPU."""
    findings, sizes = Findings(), setting.sizes
    split = read_photos(setting, setting.scratch / "drafts", sizes.images)
    for recipe in ("ssd", "light", "flip"):
        with findings.case(recipe):
            config = make_config(
                setting,
                f"train.batch_size={sizes.images}",
                *("data.augment_on=device", f"data.augmentation={recipe}", "data.vertical_flip=true"),
            )
            alignment = build.dialect_of(config.model).resize_alignment
            loader = build.build_loader(
                config, split, training=True, alignment=alignment, device=setting.device, workers=0
            )
            drafts = next(start_epoch(loader, 1))
            expected = finish_images(drafts, config.model.input_size).images
            found = finish_images(drafts.to(setting.device), config.model.input_size).images.cpu()
            apart = (found.int() - expected.int()).abs()
            within, mean = (apart <= 1).double().mean().item(), apart.double().mean().item()
            findings.holds(
                recipe,
                found.shape == expected.shape and within >= APART_BY_ONE and mean <= MEAN_APART,
                f"{within:.2%} of the values are within one level, and {mean:.3f} levels is the mean difference",
                **{"within one level": within, "mean difference": mean},
            )
    return findings.outcome()


def check_steps(setting: Setting) -> Outcome:
    """Training steps of each recipe and precision never wait for the GPU, and learn."""
    findings, sizes = Findings(), setting.sizes
    for recipe in STEPS_OF:
        for precision in PRECISIONS if recipe == STEPS_OF[0] else PRECISIONS[:1]:
            if precision == "fp16" and setting.device.type == "cpu":
                continue
            with findings.case(f"{recipe}, {precision}"):
                config = make_config(setting, recipe, f"train.precision={precision}")
                step = make_step(config, setting, setting.device)
                drawn = [make_batch(config, setting, sizes.images, sizes.objects, CPU, seed) for seed in range(5)]
                if setting.device.type == "cuda":
                    drawn = [batch.pin_memory() for batch in drawn]
                before = [each.detach().clone() for each in step.model.parameters()]
                batches = on_device(drawn, setting.device)
                for batch in islice(batches, 2):  # which choose algorithms and allocate
                    take_step(step, batch)
                with waiting_is_an_error(setting.device):
                    for batch in batches:
                        take_step(step, batch)
                after = list(step.model.parameters())
                finite = all(bool(each.isfinite().all()) for each in after)
                moved = any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
                findings.holds(
                    f"{recipe}, {precision}", finite and moved, f"weights finite: {finite}, changed: {moved}"
                )
    return findings.outcome()


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """Whatever waits for the GPU raises RuntimeError; no effect on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
