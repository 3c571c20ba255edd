"""Names of classes: unknown ones, spellings, and how many objects there are to learn from.

MERGED: Boxes that the readers leave out or cut, and boxes that look as if they were written in the other form.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssdlite.validate.problems import Contents, Problem

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


def inspect_boxes(contents: Contents, sizes: np.ndarray) -> BoxVerdicts:
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


FEW_OBJECTS = 10  # fewer in the training set are called few


@dataclass(eq=False)
class Census:
    """Objects by class name in the sources of a split."""

    names: list[str]  # in the order of their labels
    used: Counter[str]  # objects that the readers keep
    learnable: Counter[str]  # those of them that are neither crowd nor difficult
    first: dict[str, Contents]  # the first source that has the name


def take_census(sources: Sequence[Contents], kept: Sequence[np.ndarray]) -> Census:
    """`kept`: for each source the (N,) bool of objects that the reader keeps."""
    census = Census([], Counter(), Counter(), {})
    for contents, mask in zip(sources, kept, strict=True):
        num_names = len(contents.class_names)
        used = np.bincount(contents.labels[mask], minlength=num_names)
        learnable = np.bincount(contents.labels[mask & ~contents.ignore], minlength=num_names)
        for label, name in enumerate(contents.class_names):
            census.used[name] += int(used[label])
            census.learnable[name] += int(learnable[label])
            census.first.setdefault(name, contents)
    # As `layout.read_split` has them: COCO's by id, then those that only VOC has.
    coco = [name for contents in sources if contents.is_coco for name in contents.class_names]
    census.names = list(dict.fromkeys([*coco, *sorted(census.first)]))
    return census


def merge_spellings(train: Census, val: Census, given: Sequence[str]) -> dict[str, str]:
    """For each name that differs from another in capitals or spaces only, the one that all should have.

    That is the one among `given` (data.class_names), otherwise the most frequent one in the training set, then in
    the validation set, at a tie the first in the order of labels. Where `given` has several, all stay.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys([*given, *train.names, *val.names]):
        groups[" ".join(name.split()).casefold()].append(name)
    merged: dict[str, str] = {}
    for names in groups.values():
        wanted = [name for name in names if name in given]
        if len(names) < 2 or len(wanted) > 1:
            continue
        best = wanted[0] if wanted else max(names, key=lambda name: (train.used[name], val.used[name]))
        merged.update({name: best for name in names if name != best})
    return merged


def check_classes(
    train: Census,
    val: Census | None,
    given: Sequence[str],
    spellings: Mapping[str, str],
    *,
    ignore_unknown: bool,
) -> list[Problem]:
    """Findings about the names; `val` is None where it is the training set, or where there is no validation set."""
    found: list[Problem] = []
    known = list(given) or train.names or (val.names if val else [])
    for census in filter(None, (train, val)):
        unknown = [name for name in census.names if name not in known and census.used[name]]
        found += [_unknown(name, census, known, spellings, ignore_unknown) for name in unknown]
        found += [
            _spelling(name, other, census)
            for name, other in spellings.items()
            if name in census.first and name not in unknown and not (census is val and name in train.first)
        ]
    for name in known if train.first else []:
        contents = train.first.get(name) or next(iter(train.first.values()))
        count = train.learnable[name]
        if not count:
            text = "has no object to learn from in the training set"
            found.append(Problem("class-without-objects", contents.file, name, text))
        elif count < FEW_OBJECTS:
            text = f"has only {count} object{'s' * (count > 1)} to learn from"
            found.append(Problem("class-with-few-objects", contents.file, name, text))
        if val and val.first and count and not val.learnable[name]:
            contents = val.first.get(name) or next(iter(val.first.values()))
            text = "has no object in the validation set, so it is not judged"
            found.append(Problem("class-not-in-validation", contents.file, name, text))
    return found


def _unknown(
    name: str, census: Census, known: Sequence[str], spellings: Mapping[str, str], ignore_unknown: bool
) -> Problem:
    file, count = census.first[name].file, census.used[name]
    objects = f"{count} object{'s' * (count > 1)}"
    if ignore_unknown:
        return Problem(
            "class-left-out", file, name, f"is not among the classes to learn; its {objects} are left out"
        )
    same = spellings.get(name)
    near = [same] if same in known else difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"the known ones are {', '.join(known[:10])}"
    return Problem("class-unknown", file, name, f"{objects} of a class that is not among those to learn; {hint}")


def _spelling(name: str, other: str, census: Census) -> Problem:
    text = f"differs from '{other}' in capitals or spaces only, and is another class; --fix makes it '{other}'"
    return Problem("class-spelling", census.first[name].file, name, text)
