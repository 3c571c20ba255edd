"""From the Detector's output to detections: scores, boxes, suppression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from ssdlite import boxes as box_ops
from ssdlite.box_arrays import FRAME
from ssdlite.model.corner_decode import decode_corners
from ssdlite.structures import CornerOutput, Detections, DetectorOutput

TOGETHER = 8192
"""Boxes of several images in one suppression on a GPU, which compares each with each: 2**26 pairs and 8 MiB of bits
for them. An image has some 500 to 2,000; one with more has one of its own, as it always had."""


def decode_output(output: DetectorOutput, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """All priors, or the best pairs of corners, as boxes (B, P, 4) xyxy, input pixels, and scores (B, P, K).

    There is no column for background. Boxes reach beyond the image, by `box_arrays.FRAME` at most: suppression
    comes first, clipping afterwards. In float32 whatever the network ran in. This much goes into every exported
    file.
    """
    if isinstance(output, CornerOutput):
        return decode_corners(output)
    boxes = box_ops.decode(output.deltas.float(), output.priors)
    height, width = input_size
    sides = boxes.new_tensor([width, height, width, height])
    boxes = boxes.clamp(-FRAME * sides, sides + FRAME * sides)
    logits = output.logits.float()
    scores = logits.softmax(dim=-1) if output.score_activation == "softmax" else logits.sigmoid()
    return boxes, scores[..., 1:]


@dataclass(frozen=True)
class Decoder:
    """Turns DetectorOutput into Detections by score threshold and suppression a class.

    Boxes without area in the image are left out. The others compete as they are, and what is chosen is clipped to
    the image afterwards, as in TensorFlow: clipping makes boxes at the border more alike than they are.
    score_threshold and iou_threshold are exclusive: a box is kept above the first, and suppressed when it overlaps
    a better one of its class by more than the second.
    """

    input_size: tuple[int, int]
    score_threshold: float = 0.01
    iou_threshold: float = 0.5
    candidates_per_class: int = 400
    max_detections: int = 100

    @torch.no_grad()
    def __call__(self, output: DetectorOutput, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image, in pixels of the original images of (height, width) `original_sizes`.

        All images at once: a GPU is waited for once for the candidates, once for each `TOGETHER` of them, and once
        for what is kept.
        """
        boxes, scores = decode_output(output, self.input_size)
        assert len(boxes) == len(original_sizes), f"{len(boxes)} images of {len(original_sizes)} sizes"
        clipped = box_ops.clip(boxes, self.input_size)
        is_seen = (clipped[..., 2:] > clipped[..., :2]).all(dim=-1, keepdim=True)
        scores = scores.where(is_seen, 0)
        candidates = min(self.candidates_per_class, scores.shape[1])
        top_scores, top_priors = scores.transpose(1, 2).topk(candidates, dim=2)  # (B, K, candidates)
        images, labels, ranks = torch.nonzero(top_scores > self.score_threshold, as_tuple=True)
        scores, priors = top_scores[images, labels, ranks], top_priors[images, labels, ranks]
        suppress = suppress_together if boxes.device.type == "cuda" else suppress_by_image
        kept = suppress(boxes[images, priors], scores, images, labels, self.iou_threshold)
        images, labels, scores, priors = images[kept], labels[kept], scores[kept], priors[kept]
        found_boxes, found_scores, found_labels = clipped[images, priors].cpu(), scores.cpu(), labels.cpu() + 1
        counts = torch.bincount(images.cpu(), minlength=len(boxes)).tolist()
        detections = []
        for (height, width), *parts in zip(
            original_sizes, *(each.split(counts) for each in (found_boxes, found_scores, found_labels)), strict=True
        ):
            scale = torch.tensor([width / self.input_size[1], height / self.input_size[0]] * 2)
            own_boxes, own_scores, own_labels = (part[: self.max_detections] for part in parts)
            detections.append(Detections((own_boxes * scale).numpy(), own_scores.numpy(), own_labels.numpy()))
        return detections


def suppress_by_image(
    boxes: Tensor, scores: Tensor, images: Tensor, labels: Tensor, iou_threshold: float
) -> Tensor:
    """Which of N boxes no better one of their image and label suppresses: indices, by image, best first.

    Args:
        boxes: (N, 4) xyxy, image after image.
        scores, images, labels: (N,).
    """
    kept, start = [images[:0]], 0
    for count in torch.bincount(images).tolist():
        part = slice(start, start + count)
        if count:
            # It separates classes by moving their boxes, and takes all coordinates for positive.
            own = boxes[part] - boxes[part].min()
            kept.append(start + batched_nms(own, scores[part], labels[part], iou_threshold))
        start += count
    return torch.cat(kept)


def suppress_together(
    boxes: Tensor, scores: Tensor, images: Tensor, labels: Tensor, iou_threshold: float
) -> Tensor:
    """As `suppress_by_image`, for a GPU: of as many images at a time as have `TOGETHER` boxes.

    Each label of each image has its place in a row of places as wide as all boxes. In float64, where that takes
    nothing from a coordinate: the last of 2,560 places is 3 million pixels away, where float32 has quarters.
    """
    if not len(boxes):
        return images
    low, high = boxes.aminmax()
    place = images * (labels.max() + 1) + labels
    apart = boxes.double() - low + place.unsqueeze(-1) * ((high - low).ceil() + 1)
    kept, start = [], 0
    for count in _groups(torch.bincount(images).tolist(), TOGETHER):
        part = slice(start, start + count)
        kept.append(start + nms(apart[part], scores[part].double(), iou_threshold))
        start += count
    found = torch.cat(kept)  # best first, of all images of a group
    return found[images[found].sort(stable=True).indices]


def _groups(counts: Sequence[int], most: int) -> Iterator[int]:
    """Sums of neighbours among `counts`, each at most `most` or of one alone; none is 0."""
    total = 0
    for count in counts:
        if total and total + count > most:
            yield total
            total = 0
        total += count
    if total:
        yield total
