"""Fit of priors to the objects of a data set: a bound on what training can reach, known before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssdlite import boxes as box_ops
from ssdlite.data.transforms import AugmentationName, build_augmentation, draft
from ssdlite.structures import DataSplit, Record

BLANK_SIDE = 512  # pixels of the picture that is cut in place of the image, to whole pixels


def spread(split: DataSplit, most: int) -> DataSplit:
    """At most so many images, from all over the split."""
    count = len(split)
    if count <= most:
        return split
    return replace(split, records=[split.records[index * count // most] for index in range(most)])


def input_boxes(split: DataSplit, size: tuple[int, int]) -> list[np.ndarray]:
    """Return the boxes that the network sees in validation: for every image (N, 4) float32 xyxy, stretched to
    `size` (height, width).

    Those that are to be ignored are left out.
    """
    height, width = size
    return [
        record.boxes[~record.ignore] * np.array([width / record.size[1], height / record.size[0]] * 2, np.float32)
        for record in split.records
    ]


def draw_boxes(
    split: DataSplit, size: tuple[int, int], augmentation: AugmentationName, *, seed: int = 0
) -> list[np.ndarray]:
    """Return boxes that the network may see in training: as `input_boxes`, under one draw of the recipe for each
    image.

    Crops enlarge objects, cut them and leave some out; zooming out shrinks them. A millisecond an image.
    """
    if augmentation in ("flip", "none"):  # mirrors change no size
        return input_boxes(split, size)
    pipeline = build_augmentation(augmentation, size, cut_only=True)
    found = []
    for index, record in enumerate(split.records):
        blank = _blank(record)
        objects = (record.boxes, record.labels, record.ignore)
        targets = draft(pipeline, blank, *objects, seed + index, annotated_size=record.size)[2]
        found.append(targets.boxes[~targets.ignore].numpy())
    return found


def _blank(record: Record) -> np.ndarray:
    """A picture of the image's shape, whatever its size: the pixels do not matter."""
    height, width = (max(1, round(side * BLANK_SIDE / max(record.size))) for side in record.size)
    return np.zeros((height, width, 3), np.uint8)


MAX_IMAGES = 2000
"""Images that are measured, spread evenly over those that there are: of COCO's 117,266 some 14,000 objects, enough
for shares within 1 % of the whole (two standard errors), in seconds."""


SIZE_EDGES = (8, 16, 32, 64, 128, 256)  # √area, input pixels


SHAPE_EDGES = (1 / 3, 2 / 3, 3 / 2, 3.0)  # width / height


SIZE_NAMES = ("under 8 px", *(f"{low} to {2 * low} px" for low in SIZE_EDGES[:-1]), "from 256 px")


SHAPE_NAMES = ("under 1:3", "1:3 to 2:3", "2:3 to 3:2", "3:2 to 3:1", "from 3:1")


@dataclass(frozen=True)
class FitRow:
    """The objects of one size, of one shape, or all of them. Figures of none are None."""

    name: str
    num_objects: int
    share_reached: float | None  # objects whose best prior has the threshold's IoU or more
    mean_iou: float | None  # of each object with its best prior
    num_matched: int  # objects that a prior of that IoU learns
    num_forced: int  # objects that only a prior below it learns, since each gets the best one that is left
    num_unmatched: int  # objects that no prior learns: nothing overlaps, or others have all that does
    mean_positives: float | None  # priors that learn an object


@dataclass(frozen=True, eq=False)
class PriorFit:
    """Overlaps of the objects of a data set with a set of priors, matched by `losses.matching.assign_iou`.

    One entry an object that was measured, in the order of the images; `total` and the rows sum them up.
    """

    sizes: np.ndarray  # (N, 2) float32: width and height, input pixels
    best_iou: np.ndarray  # (N,) float32: with the best of all priors, whoever learns it
    learnt_iou: np.ndarray  # (N,) float32: with the best prior that learns the object; 0 if none does
    positives: np.ndarray  # (N,) int64: priors that learn the object
    num_priors: int
    num_images: int  # that were measured, those without objects among them
    total_images: int  # that there are
    iou_threshold: float

    @property
    def total(self) -> FitRow:
        """Fit of all objects."""
        return self._row("all", np.ones(len(self.best_iou), bool))

    @property
    def by_size(self) -> tuple[FitRow, ...]:
        """A row for each of SIZE_NAMES, by √area in input pixels; those without objects too."""
        bucket = np.searchsorted(SIZE_EDGES, np.sqrt(self.sizes.prod(axis=1)), side="right")
        return tuple(self._row(name, bucket == number) for number, name in enumerate(SIZE_NAMES))

    @property
    def by_shape(self) -> tuple[FitRow, ...]:
        """A row for each of SHAPE_NAMES, by width / height; those without objects too."""
        bucket = np.searchsorted(SHAPE_EDGES, self.sizes[:, 0] / self.sizes[:, 1], side="right")
        return tuple(self._row(name, bucket == number) for number, name in enumerate(SHAPE_NAMES))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; None for figures of no objects."""
        return {
            "images": self.num_images,
            "images_in_all": self.total_images,
            "priors": self.num_priors,
            "iou_threshold": self.iou_threshold,
            "total": vars(self.total).copy(),
            "by_size": [vars(row).copy() for row in self.by_size],
            "by_shape": [vars(row).copy() for row in self.by_shape],
        }

    def _row(self, name: str, chosen: np.ndarray) -> FitRow:
        best, learnt, positives = self.best_iou[chosen], self.learnt_iou[chosen], self.positives[chosen]
        num_matched = int((learnt >= self.iou_threshold).sum())
        num_unmatched = int((positives == 0).sum())
        there = len(best) > 0
        return FitRow(
            name=name,
            num_objects=len(best),
            share_reached=float((best >= self.iou_threshold).mean()) if there else None,
            mean_iou=float(best.mean()) if there else None,
            num_matched=num_matched,
            num_forced=len(best) - num_matched - num_unmatched,
            num_unmatched=num_unmatched,
            mean_positives=float(positives.mean()) if there else None,
        )


def measure_fit(
    boxes: Sequence[np.ndarray],
    priors: Tensor,
    *,
    iou_threshold: float = 0.5,
    max_images: int = MAX_IMAGES,
) -> PriorFit:
    """Measure which objects `priors` can reach, and which priors would learn them.

    Crowds and what is to be ignored do not belong among `boxes`. Boxes as the network sees them in validation, that
    is stretched to its input, say what it will be asked for; random crops enlarge objects in training, so boxes as
    augmented say what it will learn from.

    Args:
        boxes: of each image (N, 4) xyxy, input pixels; N may be 0.
        priors: (P, 4) cxcywh, input pixels, as a Detector has them.
        iou_threshold: from which overlap on a prior learns an object.
        max_images: of more images so many are measured, spread evenly.
    """
    chosen = _spread(len(boxes), max_images)
    priors_xyxy = box_ops.cxcywh_to_xyxy(priors.cpu().float())
    found = [_match(torch.from_numpy(boxes[index]).float(), priors_xyxy, iou_threshold) for index in chosen]
    sizes = [boxes[index][:, 2:] - boxes[index][:, :2] for index in chosen]
    return PriorFit(
        sizes=np.concatenate([np.zeros((0, 2)), *sizes]).astype(np.float32),
        best_iou=np.concatenate([np.zeros(0), *(best for best, _, _ in found)]).astype(np.float32),
        learnt_iou=np.concatenate([np.zeros(0), *(learnt for _, learnt, _ in found)]).astype(np.float32),
        positives=np.concatenate([np.zeros(0), *(positives for _, _, positives in found)]).astype(np.int64),
        num_priors=len(priors),
        num_images=len(chosen),
        total_images=len(boxes),
        iou_threshold=iou_threshold,
    )


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of the positions 0..count - 1, evenly spread."""
    return [*range(count)] if count <= most else [index * count // most for index in range(most)]


def _match(boxes: Tensor, priors_xyxy: Tensor, iou_threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each object (N, 4) its best overlap, its best overlap with a prior that learns it, and how many
    do."""
    num_objects = len(boxes)
    if not num_objects:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    iou_NP = box_ops.iou(boxes, priors_xyxy)
    best_iou_N, best_prior_N = iou_NP.max(dim=1)
    iou_P, object_P = iou_NP.max(dim=0)
    learns_P = iou_P >= iou_threshold
    for index, prior in _claims(iou_NP, best_iou_N.tolist(), best_prior_N.tolist()):
        object_P[prior], iou_P[prior], learns_P[prior] = index, iou_NP[index, prior], True
    learnt_by = object_P[learns_P]
    learnt_iou_N = torch.zeros(num_objects).scatter_reduce(0, learnt_by, iou_P[learns_P], "amax")
    return best_iou_N.numpy(), learnt_iou_N.numpy(), torch.bincount(learnt_by, minlength=num_objects).numpy()


def _claims(iou_NP: Tensor, best_iou: list[float], best_prior: list[int]) -> Iterator[tuple[int, int]]:
    """Object and prior of each pair of the bipartite matching by descending overlap (Liu et al. 2016, sec. 2.2)."""
    queue = [(-iou, index, prior) for index, (iou, prior) in enumerate(zip(best_iou, best_prior, strict=True))]
    heapify(queue)
    taken: list[int] = []
    while queue and queue[0][0] < 0:
        _, index, prior = heappop(queue)
        if prior in taken:  # the best of those that are left is this one's new wish
            iou, free = iou_NP[index].index_fill(0, torch.tensor(taken), 0).max(dim=0)
            heappush(queue, (-iou.item(), index, int(free)))
        else:
            taken.append(prior)
            yield index, prior
