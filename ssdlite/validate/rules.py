"""Rules over annotations: boxes that are left out, cut or in another form, and names of classes.

Start with `check_boxes` and `check_classes`. What a reader cannot read is not here: it has a problem already.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssdlite.data.formats.base import Annotations, clip_boxes
from ssdlite.data.formats.problems import Problem, Problems

TOLERANCE = 1.0  # pixels over the border that are taken for rounding, or for counting from 0 in place of 1


MISFIT_SHARE = 0.02  # of the boxes cannot be what they should be ...


FIT_SHARE = 0.99  # ... while this many can be the other form


MIN_MISFITS = 3


AREA_SLACK = 1.01  # an area may be larger than its box by rounding


MOST_CROWDS = 0.5  # of the objects may be crowds


FEW_OBJECTS = 10  # fewer in the training set are called few


class BoxStates(NamedTuple):
    """State of each box of a source; just one of the five holds. (N,) bool."""

    degenerate: np.ndarray  # left out: a side of 0, or not finite
    inverted: np.ndarray  # left out: a corner on the wrong side of the other
    outside: np.ndarray  # left out: nothing of it is in the image
    clipped: np.ndarray  # more than TOLERANCE of it is outside
    good: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: what training keeps."""
        return self.clipped | self.good


def inspect_boxes(annotations: Annotations, sizes: np.ndarray) -> BoxStates:
    """Sort the boxes; `sizes` (I, 2) are height and width, 0 where they are not known."""
    raw = annotations.boxes()
    limits = _limits(annotations, sizes)
    _, kept = clip_boxes(raw, limits)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(raw).all(axis=1)
        flat = (raw[:, 2:].astype(np.float32) == raw[:, :2].astype(np.float32)).any(axis=1)
        overhang = np.maximum(-raw, raw - limits).max(axis=1, initial=-np.inf)
    reversed_ = (annotations.corners[:, 2:] < annotations.corners[:, :2]).any(axis=1)
    inverted = finite & ~kept & reversed_
    degenerate = ~kept & ~inverted & (~finite | flat)
    over = kept & (overhang > TOLERANCE)
    return BoxStates(
        degenerate=degenerate,
        inverted=inverted,
        outside=~kept & ~inverted & ~degenerate,
        clipped=over,
        good=kept & ~over,
    )


def looks_other(annotations: Annotations, sizes: np.ndarray) -> bool:
    """Return whether boxes of the form xywh look like corners, or corners like xywh.

    Boxes that cannot be what they should be say nothing by themselves: nearly all must fit the other form, which
    is hardly so by chance.
    """
    if annotations.box_form is None:
        return False
    num_misfits, num_boxes, share = _count_misfits(annotations, sizes)
    return num_misfits >= max(MIN_MISFITS, MISFIT_SHARE * num_boxes) and share >= FIT_SHARE


def other_corners(annotations: Annotations) -> np.ndarray:
    """Return (N, 4) corners if the four numbers are read in the other form."""
    corners = annotations.corners
    if annotations.box_form == "xywh":
        return np.concatenate([corners[:, :2], np.round(corners[:, 2:] - corners[:, :2], 4)], axis=1)
    return np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:] - annotations.counts_from_one], axis=1)


def check_boxes(annotations: Annotations, states: BoxStates, sizes: np.ndarray, problems: Problems) -> None:
    """Add a problem for each box that is not good, and one for a source in the other form."""
    words = {
        "box-degenerate": (states.degenerate, "has no area and is left out"),
        "box-inverted": (states.inverted, "has its corners the wrong way round and is left out"),
        "box-outside": (states.outside, "lies outside its image and is left out"),
        "box-clipped": (states.clipped, "reaches over the border and is cut"),
    }
    for kind, (mask, what) in words.items():
        for index in np.flatnonzero(mask).tolist():
            box = ", ".join(f"{value:g}" for value in annotations.corners[index])
            owner = annotations.owners[index]
            height, width = sizes[owner].tolist()
            image = f" in an image of {width}x{height}" if height else ""
            text = f"the box ({box}){image} {what}"
            problems.add(kind, annotations.files[owner], text, item=annotations.name_object(index))
    if looks_other(annotations, sizes):
        num_misfits, num_boxes, share = _count_misfits(annotations, sizes)
        if annotations.box_form == "xywh":
            kind, wrong, other = "boxes-look-xyxy", "reach out of their images", "[x1, y1, x2, y2]"
        else:
            kind, wrong, other = "boxes-look-xywh", "are inverted", "x, y, width, height"
        text = (
            f"{num_misfits} of {num_boxes} boxes {wrong}, and {share:.1%} would fit if they were {other}; "
            f"convert all of them with --fix DIR --boxes {kind.removeprefix('boxes-look-')}"
        )
        problems.add(kind, annotations.file, text, item=str(annotations.source))


def check_objects(annotations: Annotations, problems: Problems) -> None:
    """Add a problem for each object that repeats another, each impossible area, and for a source of mostly
    crowds."""
    for index in np.flatnonzero(repeated_objects(annotations)).tolist():
        text = "has the class and the box of another object of the image; training counts it twice"
        file = annotations.files[annotations.owners[index]]
        problems.add("object-repeated", file, text, item=annotations.name_object(index))
    boxes = annotations.boxes()
    with np.errstate(invalid="ignore", over="ignore"):
        box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        impossible = np.isfinite(annotations.areas) & (annotations.areas > box_areas * AREA_SLACK + 1)
    for index in np.flatnonzero(impossible & (box_areas > 0)).tolist():
        text = f"has the area {annotations.areas[index]:g}, but its box has {box_areas[index]:g}"
        file = annotations.files[annotations.owners[index]]
        problems.add("area-impossible", file, text, item=annotations.name_object(index))
    num_crowds, num_objects = int(annotations.crowd.sum()), len(annotations.crowd)
    if num_crowds > MOST_CROWDS * num_objects:
        text = f"{num_crowds} of {num_objects} objects are crowds (iscrowd), which are not learnt"
        problems.add("mostly-crowds", annotations.file, text, item=str(annotations.source))


def repeated_objects(annotations: Annotations, corners: np.ndarray | None = None) -> np.ndarray:
    """Return (N,) bool, objects with the image, the class and the box of an earlier one; the boxes are `corners`
    (N, 4), or the file's."""
    corners = annotations.corners if corners is None else corners
    rows = np.column_stack([annotations.owners, annotations.labels, corners])
    if not len(rows):
        return np.zeros(0, bool)
    _, first = np.unique(rows, axis=0, return_index=True)
    repeated = np.ones(len(rows), bool)
    repeated[first] = False
    return repeated


def _limits(annotations: Annotations, sizes: np.ndarray) -> np.ndarray:
    """(N, 4) width, height, width, height of each object's image; infinite where it is not known."""
    per_object = np.where(sizes > 0, sizes, np.inf)[annotations.owners].reshape(-1, 2)
    return per_object[:, [1, 0, 1, 0]]


def _count_misfits(annotations: Annotations, sizes: np.ndarray) -> tuple[int, int, float]:
    """Boxes that cannot be what they should be, all boxes of known images, and the share that can be the other."""
    corners, others = annotations.corners, other_corners(annotations)
    limits = _limits(annotations, sizes)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(corners).all(axis=1) & np.isfinite(limits).all(axis=1)
        ordered = (others[:, 2:] > others[:, :2]).all(axis=1)
        inside = (others >= -TOLERANCE).all(axis=1) & (others <= limits + TOLERANCE).all(axis=1)
        if annotations.box_form == "xywh":
            misfit = (corners[:, 2:] > limits[:, 2:] + TOLERANCE).any(axis=1)
        else:
            misfit = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    num_boxes = int(known.sum())
    return int((misfit & known).sum()), num_boxes, float((ordered & inside & known).sum()) / max(1, num_boxes)


@dataclass(eq=False)
class Census:
    """Objects by class name in the sources of a split."""

    names: list[str]  # in the order of their labels
    used: Counter[str]  # objects that training keeps
    learnable: Counter[str]  # those of them that are neither crowd nor difficult
    first: dict[str, Annotations]  # the first source that has the name


def take_census(sources: Sequence[Annotations], kept: Sequence[np.ndarray]) -> Census:
    """Count the objects; `kept` has for each source the (N,) bool of those that training keeps."""
    census = Census([], Counter(), Counter(), {})
    for source, mask in zip(sources, kept, strict=True):
        num_names = len(source.class_names)
        used = np.bincount(source.labels[mask], minlength=num_names)
        learnable = np.bincount(source.labels[mask & ~source.ignore], minlength=num_names)
        for label, name in enumerate(source.class_names):
            census.used[name] += int(used[label])
            census.learnable[name] += int(learnable[label])
            census.first.setdefault(name, source)
    # As `layout.read_split` has them: those with an order of their own, then the others.
    ordered = [name for source in sources if source.category_ids is not None for name in source.class_names]
    census.names = list(dict.fromkeys([*ordered, *sorted(census.first)]))
    return census


def merge_spellings(train: Census, val: Census, given: Sequence[str]) -> dict[str, str]:
    """Return for each name that differs from another in capitals or spaces only the one that all should have.

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
    """Return problems of the names; `val` is None where it is the training set, or where there is none."""
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
        annotations = train.first.get(name) or next(iter(train.first.values()))
        count = train.learnable[name]
        if not count:
            text = "has no object to learn from in the training set"
            found.append(Problem("class-without-objects", annotations.file, name, text))
        elif count < FEW_OBJECTS:
            text = f"has only {count} object{'s' * (count > 1)} to learn from"
            found.append(Problem("class-with-few-objects", annotations.file, name, text))
        if val and val.first and count and not val.learnable[name]:
            annotations = val.first.get(name) or next(iter(val.first.values()))
            text = "has no object in the validation set, so it is not evaluated"
            found.append(Problem("class-not-in-validation", annotations.file, name, text))
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
