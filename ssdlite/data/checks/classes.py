"""Names of classes: unknown ones, spellings, and how many objects there are to learn from."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssdlite.data.checks.contents import Contents
from ssdlite.data.checks.findings import Finding

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
) -> list[Finding]:
    """Findings about the names; `val` is None where it is the training set, or where there is no validation set."""
    found: list[Finding] = []
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
            found.append(Finding("class-without-objects", contents.file, name, text))
        elif count < FEW_OBJECTS:
            text = f"has only {count} object{'s' * (count > 1)} to learn from"
            found.append(Finding("class-with-few-objects", contents.file, name, text))
        if val and val.first and count and not val.learnable[name]:
            contents = val.first.get(name) or next(iter(val.first.values()))
            text = "has no object in the validation set, so it is not judged"
            found.append(Finding("class-not-in-validation", contents.file, name, text))
    return found


def _unknown(
    name: str, census: Census, known: Sequence[str], spellings: Mapping[str, str], ignore_unknown: bool
) -> Finding:
    file, count = census.first[name].file, census.used[name]
    objects = f"{count} object{'s' * (count > 1)}"
    if ignore_unknown:
        return Finding(
            "class-left-out", file, name, f"is not among the classes to learn; its {objects} are left out"
        )
    same = spellings.get(name)
    near = [same] if same in known else difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"the known ones are {', '.join(known[:10])}"
    return Finding("class-unknown", file, name, f"{objects} of a class that is not among those to learn; {hint}")


def _spelling(name: str, other: str, census: Census) -> Finding:
    text = f"differs from '{other}' in capitals or spaces only, and is another class; --fix makes it '{other}'"
    return Finding("class-spelling", census.first[name].file, name, text)
