"""Boxes that the readers leave out or cut, and boxes that look as if they were written in the other form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssdlite.data.checks.contents import Contents

TOLERANCE = 1.0  # pixels over the border that are taken for rounding, or for counting from 0 in place of 1
MISFIT_SHARE = 0.1  # of the boxes cannot be what they should be ...
FIT_SHARE = 0.99  # ... while this many can be the other form
MIN_MISFITS = 3


class BoxVerdicts(NamedTuple):
    """What becomes of each box of a source; at most one of the five holds. (N,) bool."""

    degenerate: np.ndarray  # left out: a side of 0, or not finite
    inverted: np.ndarray  # left out: a corner on the wrong side of the other
    outside: np.ndarray  # left out: nothing of it is in the image
    clipped: np.ndarray  # more than TOLERANCE of it is outside
    good: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: what the readers keep."""
        return self.clipped | self.good


def judge_boxes(contents: Contents, sizes: np.ndarray) -> BoxVerdicts:
    """By the rule of `records.make_record`; `sizes` (I, 2) are height and width, 0 where they are not known."""
    raw = contents.boxes()
    limits = _limits(contents, sizes)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(raw).all(axis=1)
        clipped = np.clip(raw, 0, limits).astype(np.float32)
        kept = finite & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        flat = (raw[:, 2:].astype(np.float32) == raw[:, :2].astype(np.float32)).any(axis=1)
        overhang = np.maximum(-raw, raw - limits).max(axis=1, initial=-np.inf)
    reversed_ = (contents.corners[:, 2:] < contents.corners[:, :2]).any(axis=1)
    inverted = finite & ~kept & reversed_
    degenerate = ~kept & ~inverted & (~finite | flat)
    over = kept & (overhang > TOLERANCE)
    return BoxVerdicts(
        degenerate=degenerate,
        inverted=inverted,
        outside=~kept & ~inverted & ~degenerate,
        clipped=over,
        good=kept & ~over,
    )


def looks_other(contents: Contents, sizes: np.ndarray) -> bool:
    """Whether COCO's boxes look like (x1, y1, x2, y2), or VOC's like (x, y, width, height).

    Boxes that cannot be what they should be are no proof by themselves: nearly all must fit the other form, which
    is hardly so by chance.
    """
    num_misfits, num_boxes, share = _count_misfits(contents, sizes)
    return num_misfits >= max(MIN_MISFITS, MISFIT_SHARE * num_boxes) and share >= FIT_SHARE


def other_corners(contents: Contents) -> np.ndarray:
    """(N, 4) corners if the four numbers are read in the other form."""
    corners = contents.corners
    if contents.is_coco:
        return np.concatenate([corners[:, :2], np.round(corners[:, 2:] - corners[:, :2], 4)], axis=1)
    return np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:] - 1], axis=1)


def check_boxes(contents: Contents, verdicts: BoxVerdicts, sizes: np.ndarray) -> None:
    """Add a finding for each box that is not good, and one for a source in the other form."""
    words = {
        "box-degenerate": (verdicts.degenerate, "has no area and is left out"),
        "box-inverted": (verdicts.inverted, "has its corners the wrong way round and is left out"),
        "box-outside": (verdicts.outside, "lies outside its image and is left out"),
        "box-clipped": (verdicts.clipped, "reaches over the border and is cut"),
    }
    for kind, (mask, what) in words.items():
        for index in np.flatnonzero(mask).tolist():
            box = ", ".join(f"{value:g}" for value in contents.corners[index])
            height, width = sizes[contents.owners[index]].tolist()
            image = f" in an image of {width}x{height}" if height else ""
            contents.add(
                kind, contents.name_object(index), f"the box ({box}){image} {what}", contents.object_file(index)
            )
    if looks_other(contents, sizes):
        num_misfits, num_boxes, share = _count_misfits(contents, sizes)
        if contents.is_coco:
            kind, wrong, other = "boxes-look-xyxy", "reach out of their images", "[x1, y1, x2, y2]"
        else:
            kind, wrong, other = "boxes-look-xywh", "are inverted", "x, y, width, height"
        text = (
            f"{num_misfits} of {num_boxes} boxes {wrong}, and {share:.1%} would fit if they were {other}; "
            "convert them, or let --fix do it"
        )
        contents.add(kind, str(contents.source), text)


def _limits(contents: Contents, sizes: np.ndarray) -> np.ndarray:
    """(N, 4) width, height, width, height of each object's image; infinite where it is not known."""
    per_object = np.where(sizes > 0, sizes, np.inf)[contents.owners].reshape(-1, 2)
    return per_object[:, [1, 0, 1, 0]]


def _count_misfits(contents: Contents, sizes: np.ndarray) -> tuple[int, int, float]:
    """Boxes that cannot be what they should be, all boxes of known images, and the share that can be the other."""
    corners, others = contents.corners, other_corners(contents)
    limits = _limits(contents, sizes)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(corners).all(axis=1) & np.isfinite(limits).all(axis=1)
        ordered = (others[:, 2:] > others[:, :2]).all(axis=1)
        inside = (others >= -TOLERANCE).all(axis=1) & (others <= limits + TOLERANCE).all(axis=1)
        if contents.is_coco:
            misfit = (corners[:, 2:] > limits[:, 2:] + TOLERANCE).any(axis=1)
        else:
            misfit = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    num_boxes = int(known.sum())
    return int((misfit & known).sum()), num_boxes, float((ordered & inside & known).sum()) / max(1, num_boxes)
