"""Decoding of a network's output into detections: scores, boxes and suppression; peaks and pairs of corners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, nms

from ssdlite import boxes as box_ops
from ssdlite.boxes_np import FRAME
from ssdlite.structures import CornerOutput, Detections, DetectorOutput

TOGETHER = 8192
"""Boxes of several images in one suppression on a GPU, which compares each with each: 2**26 pairs and 8 MiB of bits
for them. An image has some 500 to 2,000; one with more has one of its own, as it always had."""


def decode_output(output: DetectorOutput, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Decode all priors, or the best pairs of corners, as boxes (B, P, 4) xyxy, input pixels, and scores (B, P, K).

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
    """Return the indices of the N boxes that no better one of their image and label suppresses, by image, best
    first.

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
    """Suppress as `suppress_by_image` does, on a GPU: as many images at a time as have `TOGETHER` boxes.

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


NUM_CORNERS = 64
"""Corners of each kind in an image, of all classes together (CornerNet: 100)."""


NUM_PAIRS = 400
"""Boxes of an image: the best of all pairs (CornerNet: 1000)."""


MAX_EMBEDDING_DISTANCE = 1.0  # of two corners of one object: the margin that training asks for between objects


def decode_corners(
    output: CornerOutput, num_corners: int = NUM_CORNERS, num_pairs: int = NUM_PAIRS
) -> tuple[Tensor, Tensor]:
    """Pairs of corners as boxes (B, n, 4) xyxy, input pixels, and scores (B, n, K), best pairs first.

    After Law & Deng 2018, sec. 4.1: a corner is a cell whose logit is the largest of its 3×3 neighbours; the best
    `num_corners` of each kind are all paired; a pair of two classes, or whose second corner is not to the right of
    and below the first, is none. A pair scores √(p₁ p₂) · (1 − d²) in the column of its class and 0 in the others,
    p being the scores of its corners and d the distance of their embeddings, at most 1; what is no pair scores 0 in
    all. n is `num_pairs`, or the number of pairs where that is less.

    CornerNet takes the mean of p₁ and p₂, which lets one sure corner make a box with any other, and cuts at d = .5,
    beyond which a short training leaves one object in seven. Cells that are no peak never make a pair, where its
    code lets them count as corners of score 0.
    """
    height, width = output.input_size
    rows, columns = output.heatmaps.shape[-2:]
    num_classes = output.heatmaps.shape[2]
    logits, cells, labels = _peaks(output.heatmaps.float(), num_corners)  # (B, 2, k) each
    embeddings = output.embeddings.float().flatten(2).gather(2, cells)
    offsets = output.offsets.float().flatten(3)  # (B, 2, 2, h·w)
    x = (cells % columns + offsets[:, :, 0].gather(2, cells)) * (width / columns)
    y = (cells // columns + offsets[:, :, 1].gather(2, cells)) * (height / rows)

    first, second = ((slice(None), 0, slice(None), None), (slice(None), 1, None, slice(None)))
    is_pair = (
        (labels[first] == labels[second])
        & (x[first] < x[second])
        & (y[first] < y[second])
        & (logits[first] > -torch.inf)
        & (logits[second] > -torch.inf)
    )
    distance = (embeddings[first] - embeddings[second]).abs() / MAX_EMBEDDING_DISTANCE
    agreement = (1 - distance.square()).clamp(min=0)
    corner_scores = logits.sigmoid()
    scores_Bkk = ((corner_scores[first] * corner_scores[second]).sqrt() * agreement).where(is_pair, 0.0)
    count = cells.shape[2]
    scores, pairs = scores_Bkk.flatten(1).topk(min(num_pairs, count * count))
    one, other = pairs // count, pairs % count
    corners = (x[:, 0].gather(1, one), y[:, 0].gather(1, one), x[:, 1].gather(1, other), y[:, 1].gather(1, other))
    sides = scores.new_tensor([width, height, width, height])
    boxes = torch.stack(corners, dim=-1).clamp(-FRAME * sides, sides + FRAME * sides)
    is_class = labels[:, 0].gather(1, one).unsqueeze(-1) == torch.arange(num_classes, device=pairs.device)
    return boxes, scores.unsqueeze(-1) * is_class


def _peaks(heatmaps: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 2, K, h, w) logits -> logits, cells (row · w + column) and classes 0..K-1 of the best peaks, (B, 2, k).

    Where there are too few, the rest has −∞ as logits.
    """
    neighbourhood = F.max_pool2d(heatmaps.flatten(0, 1), 3, stride=1, padding=1).view_as(heatmaps)
    peaks = heatmaps.where(heatmaps == neighbourhood, -torch.inf).flatten(2)
    logits, positions = peaks.topk(min(count, peaks.shape[2]))
    num_cells = heatmaps.shape[-2] * heatmaps.shape[-1]
    return logits, positions % num_cells, positions // num_cells
