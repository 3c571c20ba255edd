"""All checks of a data set, and the fast ones that `train` makes."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssdlite.data.formats.layout import CocoSource, Source
from ssdlite.validate.coco import inspect_coco
from ssdlite.validate.images import ImageFacts, Track, examine_images
from ssdlite.validate.problems import Contents, Problem
from ssdlite.validate.rules import (
    BoxVerdicts,
    Census,
    check_boxes,
    check_classes,
    inspect_boxes,
    merge_spellings,
    take_census,
)
from ssdlite.validate.voc import inspect_voc


@dataclass(eq=False)
class SourceCheck:
    """One source with what was judged of it."""

    contents: Contents
    sizes: np.ndarray  # (I, 2) height and width: the annotation's, otherwise the image's, otherwise 0
    verdicts: BoxVerdicts
    repeated: np.ndarray  # (I,) bool: an image that the split has already


@dataclass(eq=False)
class CheckReport:
    """What a check found, and what a cleaned copy can be made from."""

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
        return sum(len(source.contents.paths) for source in [*self.train, *self.val])

    @property
    def num_objects(self) -> int:
        return sum(len(source.contents.labels) for source in [*self.train, *self.val])


def quick_check(
    train: Sequence[Source],
    val: Sequence[Source],
    class_names: Sequence[str] | None = None,
    *,
    ignore_unknown: bool = False,
) -> list[Problem]:
    """What the annotations alone tell, and whether the images are there; no image is opened.

    `class_names` and `ignore_unknown` are those of the config. Never raises `DataError`: what the readers refuse
    is a finding.
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
    """As `quick_check`, and every image is read once: its bytes are hashed and decoded.

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
    with _without_collector():
        splits = [[_inspect(source) for source in sources] for sources in (train, own_val)]
    facts: dict[Path, ImageFacts] = {}
    started = time.perf_counter()
    if track is not None:
        paths = dict.fromkeys(path for split in splits for contents in split for path in contents.paths)
        facts = examine_images(list(paths), track)
    seconds = time.perf_counter() - started
    checks = [[_assess(contents, facts) for contents in split] for split in splits]
    shared: list[Problem] = []
    for split in checks:
        _check_repeats(split, facts)
    shared += _across(checks[0], checks[1], facts)
    for sources, split in zip((train, own_val), checks, strict=True):
        if sources and not any(source.contents.paths for source in split):
            text = "no image of it can be used; add images, or name another data set"
            shared.append(Problem("no-images", split[0].contents.file, str(sources[0]), text))
    if train and not own_val:
        text = "there is no validation set of its own, so the figures will flatter the model"
        shared.append(Problem("no-validation", checks[0][0].contents.file, "", text))
    censuses = [_census(split) for split in checks]
    spellings = merge_spellings(censuses[0], censuses[1], class_names)
    val_census = censuses[1] if own_val else None
    shared += check_classes(censuses[0], val_census, class_names, spellings, ignore_unknown=ignore_unknown)
    names = list(class_names) or (censuses[0] if train else censuses[1]).names
    shared += _check_anything(checks, censuses, names, ignore_unknown)
    own = [problem for split in checks for source in split for problem in source.contents.problems]
    return CheckReport(
        _unique([*own, *shared]), checks[0], checks[1], names, spellings, ignore_unknown, facts, seconds
    )


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of small objects that all stay: looking for garbage among them more than doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _inspect(source: Source) -> Contents:
    return inspect_coco(source) if isinstance(source, CocoSource) else inspect_voc(source)


def _assess(contents: Contents, facts: dict[Path, ImageFacts]) -> SourceCheck:
    """Add the findings about the images and boxes of a source."""
    sizes = contents.sizes.copy()
    for index, path in enumerate(contents.paths) if facts else ():
        fact, item = facts[path], contents.items[index]
        known = bool(sizes[index].all())
        for kind, text in fact.found:
            if kind == "image-huge" and not known:
                kind = "image-bomb"  # Pillow, which is to tell its size, refuses it
            if kind != "image-missing" or not contents.is_coco:  # that one has been found
                contents.add(kind, item, text, path)
        if known and fact.size and not fact.fits((int(sizes[index, 0]), int(sizes[index, 1]))):
            (height, width), (annotated_height, annotated_width) = fact.size, sizes[index].tolist()
            text = (
                f"the image is {width}x{height} but its annotation says {annotated_width}x{annotated_height}; "
                "correct the size in the annotation, and the boxes with it"
            )
            contents.add("size-mismatch", item, text, contents.files[index])
        elif not known and fact.size:
            sizes[index] = fact.size
    verdicts = inspect_boxes(contents, sizes)
    check_boxes(contents, verdicts, sizes)
    counts = np.bincount(contents.owners[verdicts.kept], minlength=len(contents.paths))
    for index in np.flatnonzero(counts == 0).tolist():
        text = "has no objects; it teaches what background is"
        contents.add("image-without-objects", contents.items[index], text, contents.files[index])
    return SourceCheck(contents, sizes, verdicts, np.zeros(len(contents.paths), bool))


def _check_repeats(split: Sequence[SourceCheck], facts: dict[Path, ImageFacts]) -> None:
    """Mark and name the images that come again within a split: the same file, or the same bytes.

    Of each group the one with the most objects stays, at a tie the first.
    """
    identities = [[_identity(path, facts) for path in source.contents.paths] for source in split]
    members: dict[Path | bytes, list[tuple[SourceCheck, int]]] = {}
    frequencies = Counter(key for keys in identities for key in keys)
    repeated = {key for key, frequency in frequencies.items() if frequency > 1}
    if not repeated:
        return
    for source, keys in zip(split, identities, strict=True):
        for index, key in enumerate(keys):
            if key in repeated:
                members.setdefault(key, []).append((source, index))
    counts = {
        id(source): np.bincount(source.contents.owners[source.verdicts.kept], minlength=len(source.contents.paths))
        for source in split
    }
    for group in members.values():
        best, best_index = max(group, key=lambda member: counts[id(member[0])][member[1]])
        for source, index in group:
            if source is best and index == best_index:
                continue
            source.repeated[index] = True
            contents = source.contents
            same, other = contents.paths[index], best.contents.paths[best_index]
            if same == other:
                text = f"is the file of {best.contents.items[best_index]} as well"
                contents.add("image-listed-twice", contents.items[index], text, contents.files[index])
            else:
                text = f"has the same bytes as {other}; --fix keeps the one with more objects"
                contents.add("image-repeated", contents.items[index], text, same)


def _across(
    train: Sequence[SourceCheck], val: Sequence[SourceCheck], facts: dict[Path, ImageFacts]
) -> list[Problem]:
    learnt = {_identity(path, facts): path for source in train for path in source.contents.paths}
    found = []
    for source in val:
        for path, item in zip(source.contents.paths, source.contents.items, strict=True):
            if other := learnt.get(_identity(path, facts)):
                which = "this image" if other == path else f"{other}, which has the same bytes"
                text = f"is in the validation set, and training learns {which}: its figures will flatter"
                found.append(Problem("image-in-both-splits", path, item, text))
    return found


def _identity(path: Path, facts: dict[Path, ImageFacts]) -> Path | bytes:
    """Equal for files of the same bytes, where these are known."""
    fact = facts.get(path)
    return fact.digest if fact and fact.digest else path


def _census(split: Sequence[SourceCheck]) -> Census:
    return take_census([source.contents for source in split], [source.verdicts.kept for source in split])


def _check_anything(
    checks: Sequence[Sequence[SourceCheck]], censuses: Sequence[Census], names: Sequence[str], ignore_unknown: bool
) -> list[Problem]:
    """As `sources.read_data`: there must be classes, and with data.ignore_unknown objects of them."""
    found = []
    for split, census in zip(checks, censuses, strict=True):
        if not split or not any(source.contents.paths for source in split):
            continue
        file = split[0].contents.file
        if not names:
            found.append(Problem("no-classes", file, "", "no class is named; label some objects"))
        elif ignore_unknown and not any(census.used[name] for name in names):
            text = f"no object is of the classes {', '.join(names)}; correct data.class_names"
            found.append(Problem("no-classes", file, "", text))
    return found


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    """Each once: sources of one folder share its files."""
    return list(dict.fromkeys(problems))
