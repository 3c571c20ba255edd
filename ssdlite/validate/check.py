"""Checks of a data set, and the fast ones that `train` makes.

Start with `check_splits`. The readers collect what is wrong with the files; here come the rules over annotations,
over images, and over both splits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssdlite.data.formats.base import MOST_LOST, Annotations, Source, without_collector
from ssdlite.data.formats.problems import Problem, Problems
from ssdlite.data.formats.registry import format_of
from ssdlite.data.split import original_name
from ssdlite.validate.images import ImageFacts, Track, examine_images
from ssdlite.validate.rules import (
    BoxStates,
    Census,
    check_boxes,
    check_classes,
    check_objects,
    inspect_boxes,
    merge_spellings,
    take_census,
)


@dataclass(eq=False)
class SourceCheck:
    """One source with what was found in it."""

    annotations: Annotations
    problems: list[Problem]
    sizes: np.ndarray  # (I, 2) height and width: the annotation's, otherwise the image's, otherwise 0
    states: BoxStates
    repeated: np.ndarray  # (I,) bool: an image that the split has already

    def objects_per_image(self) -> np.ndarray:
        """Return (I,) int64, how many objects of each image training keeps."""
        return np.bincount(self.annotations.owners[self.states.kept], minlength=len(self.annotations.paths))


class SplitCounts(NamedTuple):
    """Images and objects of a split, as the annotations have them."""

    num_images: int
    num_objects: int
    objects_by_class: dict[str, int]  # the most frequent first

    @classmethod
    def of(cls, sources: Sequence[SourceCheck]) -> SplitCounts:
        counts: Counter[str] = Counter()
        for source in sources:
            names = source.annotations.class_names
            numbers = np.bincount(source.annotations.labels, minlength=len(names)).tolist()
            counts.update(dict(zip(names, numbers, strict=True)))
        num_images = sum(len(source.annotations.paths) for source in sources)
        return cls(num_images, counts.total(), dict(counts.most_common()))


@dataclass(eq=False)
class CheckReport:
    """Problems of a data set, and what a cleaned copy can be made from."""

    problems: list[Problem]
    train: list[SourceCheck]
    val: list[SourceCheck]  # empty where it is the training set
    class_names: list[str]  # those to learn
    spellings: dict[str, str]  # name -> the name that it should be
    ignore_unknown: bool
    facts: dict[Path, ImageFacts] = field(default_factory=dict)  # empty after the fast checks
    image_seconds: float = 0.0

    @property
    def num_images(self) -> int:
        return sum(len(source.annotations.paths) for source in [*self.train, *self.val])

    @property
    def num_objects(self) -> int:
        return sum(len(source.annotations.labels) for source in [*self.train, *self.val])

    @property
    def splits(self) -> dict[str, SplitCounts]:
        """Images and objects of each split that there is."""
        named = {"train": self.train, "val": self.val}
        return {name: SplitCounts.of(sources) for name, sources in named.items() if sources}


def quick_check(
    train: Sequence[Source],
    val: Sequence[Source],
    class_names: Sequence[str] | None = None,
    *,
    ignore_unknown: bool = False,
) -> list[Problem]:
    """Return the problems that show in the annotations, and images that are not there; no image is opened.

    `class_names` and `ignore_unknown` are those of the config. Never raises `DataError`: what training refuses is a
    problem.
    """
    return _check(train, val, class_names or (), ignore_unknown, None).problems


def check_splits(
    train: Sequence[Source],
    val: Sequence[Source],
    class_names: Sequence[str] | None = None,
    *,
    ignore_unknown: bool = False,
    track: Track | None = None,
) -> CheckReport:
    """Check as `quick_check`, and read every image once: its bytes are hashed and decoded.

    `track` wraps the paths of the images to show how far it is.
    """
    return _check(train, val, class_names or (), ignore_unknown, track or (lambda paths: paths))


def _check(
    train: Sequence[Source],
    val: Sequence[Source],
    class_names: Sequence[str],
    ignore_unknown: bool,
    track: Track | None,
) -> CheckReport:
    own_val = [] if list(val) == list(train) else val
    with without_collector():
        splits = [[_read(source) for source in sources] for sources in (train, own_val)]
    facts: dict[Path, ImageFacts] = {}
    started = time.perf_counter()
    if track is not None:
        paths = dict.fromkeys(path for split in splits for annotations, _ in split for path in annotations.paths)
        facts = examine_images(list(paths), track)
    seconds = time.perf_counter() - started
    checks = [[_assess(*source, facts) for source in split] for split in splits]
    shared: list[Problem] = []
    for split in checks:
        _check_repeats(split, facts)
    shared += _across(checks[0], checks[1], facts)
    for sources, split in zip((train, own_val), checks, strict=True):
        if sources and not any(source.annotations.paths for source in split):
            text = "no image of it can be used; add images, or name another data set"
            shared.append(Problem("no-images", split[0].annotations.file, str(sources[0]), text))
    if train and not own_val:
        text = "there is no validation set; a part of the training images validates (data.val_fraction)"
        shared.append(Problem("no-validation", checks[0][0].annotations.file, "", text))
    censuses = [_census(split) for split in checks]
    spellings = merge_spellings(censuses[0], censuses[1], class_names)
    val_census = censuses[1] if own_val else None
    shared += check_classes(censuses[0], val_census, class_names, spellings, ignore_unknown=ignore_unknown)
    names = list(class_names) or (censuses[0] if train else censuses[1]).names
    shared += _check_anything(checks, censuses, names, ignore_unknown)
    own = [problem for split in checks for source in split for problem in source.problems]
    return CheckReport(
        _unique([*own, *shared]), checks[0], checks[1], names, spellings, ignore_unknown, facts, seconds
    )


def _read(source: Source) -> tuple[Annotations, Problems]:
    problems = Problems()
    return format_of(source).read(source, problems), problems


def _assess(annotations: Annotations, problems: Problems, facts: dict[Path, ImageFacts]) -> SourceCheck:
    """Add the problems of the images and boxes of a source."""
    sizes = annotations.sizes.copy()
    for index, path in enumerate(annotations.paths) if facts else ():
        fact, item = facts[path], annotations.items[index]
        known = bool(sizes[index].all())
        for kind, text in fact.found:
            if kind == "image-huge" and not known:
                kind = "image-bomb"  # Pillow, which is to tell its size, refuses it
            if kind != "image-missing" or path not in annotations.missing:  # that one has been found
                problems.add(kind, path, text, item=item)
        if known and fact.size and not fact.fits((int(sizes[index, 0]), int(sizes[index, 1]))):
            (height, width), (annotated_height, annotated_width) = fact.size, sizes[index].tolist()
            text = (
                f"the image is {width}x{height} but its annotation says {annotated_width}x{annotated_height}; "
                "correct the size in the annotation, and the boxes with it"
            )
            problems.add("size-mismatch", annotations.files[index], text, item=item)
        elif not known and fact.size:
            sizes[index] = fact.size
    num_unusable = sum(not facts[path].usable for path in annotations.paths) if facts else 0
    if num_unusable and num_unusable > MOST_LOST * len(annotations.paths):
        text = f"{num_unusable} of its {len(annotations.paths)} images cannot be used; check the images folder"
        problems.add("images-unusable", annotations.file, text)
    states = inspect_boxes(annotations, sizes)
    check_boxes(annotations, states, sizes, problems)
    check_objects(annotations, problems)
    check = SourceCheck(annotations, problems.found, sizes, states, np.zeros(len(annotations.paths), bool))
    for index in np.flatnonzero(check.objects_per_image() == 0).tolist():
        text = "has no objects; it teaches what background is"
        problems.add("image-without-objects", annotations.files[index], text, item=annotations.items[index])
    return check


def _check_repeats(split: Sequence[SourceCheck], facts: dict[Path, ImageFacts]) -> None:
    """Mark the images that come again within a split, as the same file or the same bytes, and add their problems.

    Of each group the one with the most objects stays, at a tie the first.
    """
    identities = [[_identity(path, facts) for path in source.annotations.paths] for source in split]
    members: dict[Path | bytes, list[tuple[SourceCheck, int]]] = {}
    frequencies = Counter(key for keys in identities for key in keys)
    repeated = {key for key, frequency in frequencies.items() if frequency > 1}
    if not repeated:
        return
    for source, keys in zip(split, identities, strict=True):
        for index, key in enumerate(keys):
            if key in repeated:
                members.setdefault(key, []).append((source, index))
    counts = {id(source): source.objects_per_image() for source in split}
    for group in members.values():
        best, best_index = max(group, key=lambda member: counts[id(member[0])][member[1]])
        for source, index in group:
            if source is best and index == best_index:
                continue
            source.repeated[index] = True
            annotations = source.annotations
            item = annotations.items[index]
            same, other = annotations.paths[index], best.annotations.paths[best_index]
            if same == other:
                text = f"is the file of {best.annotations.items[best_index]} as well"
                source.problems.append(Problem("image-listed-twice", annotations.files[index], item, text))
            else:
                text = f"has the same bytes as {other}; --fix keeps the one with more objects"
                source.problems.append(Problem("image-repeated", same, item, text))


def _across(
    train: Sequence[SourceCheck], val: Sequence[SourceCheck], facts: dict[Path, ImageFacts]
) -> list[Problem]:
    learnt = {_identity(path, facts): path for source in train for path in source.annotations.paths}
    found = []
    for source in val:
        for path, item in zip(source.annotations.paths, source.annotations.items, strict=True):
            if other := learnt.get(_identity(path, facts)):
                which = "this image" if other == path else f"{other}, which has the same bytes"
                text = f"is in the validation set, and training learns {which}: its figures will flatter"
                found.append(Problem("image-in-both-splits", path, item, text))
    originals = {original_name(path.stem): path for source in train for path in source.annotations.paths}
    for source in val:
        for path, item in zip(source.annotations.paths, source.annotations.items, strict=True):
            name = original_name(path.stem)
            if name != path.stem and name in originals and _identity(path, facts) not in learnt:
                text = f"is a copy of the original of {originals[name].name}, which training learns"
                found.append(Problem("group-in-both-splits", path, item, text))
    return found


def _identity(path: Path, facts: dict[Path, ImageFacts]) -> Path | bytes:
    """A key that files of the same bytes share, where these are known."""
    fact = facts.get(path)
    return fact.digest if fact and fact.digest else path


def _census(split: Sequence[SourceCheck]) -> Census:
    return take_census([source.annotations for source in split], [source.states.kept for source in split])


def _check_anything(
    checks: Sequence[Sequence[SourceCheck]], censuses: Sequence[Census], names: Sequence[str], ignore_unknown: bool
) -> list[Problem]:
    """Problems where no class is named, or with data.ignore_unknown no object is of them: see `build.data`."""
    found = []
    for split, census in zip(checks, censuses, strict=True):
        if not split or not any(source.annotations.paths for source in split):
            continue
        file = split[0].annotations.file
        if not names:
            found.append(Problem("no-classes", file, "", "no class is named; label some objects"))
        elif ignore_unknown and not any(census.used[name] for name in names):
            text = f"no object is of the classes {', '.join(names)}; correct data.class_names"
            found.append(Problem("no-classes", file, "", text))
    return found


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    """Each problem once: sources of one folder share its files."""
    return list(dict.fromkeys(problems))
