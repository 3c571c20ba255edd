"""What a cleaned copy keeps of a source, and how its boxes change. Nothing is written here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ssdlite.data.checks.boxes import TOLERANCE, looks_other, other_corners
from ssdlite.data.checks.check import Report, SourceCheck
from ssdlite.data.checks.contents import Contents


@dataclass(eq=False)
class Plan:
    """One source as it should be. I images and N objects are those of `contents`."""

    contents: Contents
    keep_images: np.ndarray  # (I,) bool
    sizes: np.ndarray  # (I, 2) height and width
    keep_objects: np.ndarray  # (N,) bool; none of an image that goes
    corners: np.ndarray  # (N, 4) float64 xyxy, in the file's own counting
    changed: np.ndarray  # (N,) bool: the box is not the file's
    scaled: np.ndarray  # (N,) bool: with its image
    names: list[str]  # of each class, one spelling for all
    changes: Counter[str]  # what a person is told


def plan_repair(source: SourceCheck, report: Report) -> Plan:
    """Repeated and unusable images go, sizes become the images', inverted boxes are turned, and all are clipped.

    If a size is wrong but has the image's proportions, and its boxes lie within it, the image was made larger or
    smaller after it was annotated: then the boxes are scaled as well.
    """
    contents = source.contents
    facts = [report.facts[path] for path in contents.paths]
    keep_images = np.array([fact.usable for fact in facts], bool) & ~source.repeated
    known = np.asarray((contents.sizes > 0).all(axis=1))
    sizes = contents.sizes.copy()
    for index, fact in enumerate(facts):
        annotated = int(sizes[index, 0]), int(sizes[index, 1])
        if fact.size and not (known[index] and fact.fits(annotated)):
            sizes[index] = fact.size
    corners = other_corners(contents) if looks_other(contents, source.sizes) else contents.corners
    corners = np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1
    )
    boxes = contents.boxes(corners)
    resized = known & (sizes != contents.sizes).any(axis=1) & _same_proportions(contents.sizes, sizes)
    resized[contents.owners[~_inside(boxes, contents.sizes[contents.owners])]] = False
    factors = np.where(resized[:, None], sizes / np.maximum(contents.sizes, 1), 1.0)[contents.owners]
    limits = sizes[contents.owners][:, [1, 0, 1, 0]]
    with np.errstate(invalid="ignore"):
        boxes = np.clip(boxes * factors[:, [1, 0, 1, 0]], 0, limits)
        rounded = boxes.astype(np.float32)
        has_area = np.isfinite(boxes).all(axis=1) & (rounded[:, 2:] > rounded[:, :2]).all(axis=1)
        changed = (boxes != contents.boxes()).any(axis=1)
    corners = boxes if contents.is_coco else boxes + np.array([1, 1, 0, 0])
    if not contents.is_coco:  # a single pixel is written as a point is, and read as one
        has_area &= (corners[:, :2] != corners[:, 2:]).any(axis=1)
    names = [report.spellings.get(name, name) for name in contents.class_names]
    wanted = {report.spellings.get(name, name) for name in report.class_names}
    is_known = np.array([report.ignore_unknown or name in wanted for name in names], bool)
    of_kept = keep_images[contents.owners]
    keep_objects = of_kept & has_area & is_known[contents.labels]
    changes = Counter(
        {
            "images left out": int((~keep_images).sum()),
            "objects left out": int((of_kept & ~keep_objects).sum()),
            "boxes turned or cut": int((changed & keep_objects & ~resized[contents.owners]).sum()),
            "sizes corrected": int((known & keep_images & (sizes != contents.sizes).any(axis=1) & ~resized).sum()),
            "sizes corrected and boxes scaled with them": int((resized & keep_images).sum()),
            "class names spelt as another": sum(
                old != new for old, new in zip(contents.class_names, names, strict=True)
            ),
        }
    )
    scaled = resized[contents.owners]
    return Plan(contents, keep_images, sizes, keep_objects, corners, changed, scaled, names, +changes)


def _same_proportions(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """(I,) bool: whether one size (I, 2) is the other times a factor, but for rounding."""
    factors = new / np.maximum(old, 1)
    # A side is off by half a pixel at most, so the two factors by a share of one over the smaller image's side.
    tolerance = factors.max(axis=1) / np.maximum(np.minimum(old, new).min(axis=1), 1)
    return np.asarray(np.abs(factors[:, 0] - factors[:, 1]) <= tolerance)


def _inside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: within sizes (N, 2) of height and width."""
    limits = sizes[:, [1, 0, 1, 0]]
    with np.errstate(invalid="ignore"):
        return np.asarray(~((boxes < -TOLERANCE) | (boxes > limits + TOLERANCE)).any(axis=1))
