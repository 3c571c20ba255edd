"""A validation set out of a training set that came without one, the same on every machine and in every run.

Start with `split_off_validation`. Images of one group never lie on both sides: copies that augmentation made of one
original, files with the same bytes, and neighbouring frames of a film. Groups are ranked by a hash of their name,
so that neither a seed nor the order of the files matters.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssdlite.structures import DataSplit, Record

NUM_BLOCKS = 10  # of one film, cut into as many runs of neighbouring frames


STEADY = 0.5  # of the steps between sorted frame numbers are the same in a film; in a random draw of files few are


FEWEST_FRAMES = 10


MOST_TRIED = 200  # groups of each side that a swap is looked for among


_AUGMENTED = re.compile(r"\.rf\.[0-9a-zA-Z]+$")
"""Mark of Roboflow before the suffix of an image that it exports; augmented copies of one original share the
rest."""


_LAST_NUMBER = re.compile(r"^(.*?)(\d+)(\D*)$", re.DOTALL)


def split_off_validation(split: DataSplit, fraction: float) -> tuple[DataSplit, DataSplit] | None:
    """Return the images that stay for training, and about `fraction` of the images for validation; None for a
    single group.

    The share is exact to within one group, at least one group on each side. Where it is possible, every class that
    two or more groups have is on both sides.
    """
    is_val = choose_validation(
        group_images(split.records), [class_set(record) for record in split.records], fraction
    )
    if is_val is None:
        return None
    train, val = (
        [record for record, chosen in zip(split.records, is_val.tolist(), strict=True) if chosen == side]
        for side in (False, True)
    )
    names, numbers = split.class_names, split.category_ids
    return DataSplit(train, names, numbers), DataSplit(val, names, numbers)


def class_set(record: Record) -> set[int]:
    """Return the labels that can be learnt from an image."""
    return set(record.labels[~record.ignore].tolist())


def group_images(records: Sequence[Record]) -> list[str]:
    """Return the name of each image's group.

    Names are relative to the folder that all images share, so that they are the same on every machine.
    """
    if not records:
        return []
    paths = [record.image_path.absolute() for record in records]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = [original_name(path.relative_to(root).with_suffix("").as_posix()) for path in paths]
    groups = frame_blocks(names)
    return _join_twins(groups, paths)


def original_name(name: str) -> str:
    """Return the name, without its suffix, of the original that an image was made of: `a_jpg.rf.0f3` is of `a`."""
    plain = _AUGMENTED.sub("", name)
    return re.sub(r"[_.](jpe?g|png|bmp|webp)$", "", plain, flags=re.IGNORECASE) if plain != name else name


def frame_blocks(names: Sequence[str]) -> list[str]:
    """Return the group of each name: the name, or for numbered frames of a film the block of neighbours.

    Names are frames of one film if they differ in their last number only, and most steps between the sorted numbers
    are the same. A film is cut into `NUM_BLOCKS` blocks.
    """
    films: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for name in names:
        if parts := _LAST_NUMBER.match(name):
            films[parts[1], parts[3]][name] = int(parts[2])
    block_of: dict[str, str] = {}
    for (before, after), numbers in films.items():
        ordered = sorted(numbers, key=lambda name: (numbers[name], name))
        if len(ordered) < FEWEST_FRAMES:
            continue
        steps = np.diff([numbers[name] for name in ordered]).tolist()
        if Counter(steps).most_common(1)[0][1] < STEADY * len(steps):
            continue
        for number, block in enumerate(np.array_split(np.arange(len(ordered)), NUM_BLOCKS)):
            block_of.update({ordered[index]: f"{before}#{number}{after}" for index in block.tolist()})
    return [block_of.get(name, name) for name in names]


def _join_twins(groups: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """`groups`, where those that hold files with the same bytes have become one. Files that are not there are
    alone."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        try:
            by_size[path.stat().st_size].append(index)
        except OSError:
            continue
    leader: dict[str, str] = {}

    def lead(group: str) -> str:
        while group in leader:
            group = leader[group]
        return group

    for members in by_size.values():
        if len(members) < 2:
            continue
        first_of: dict[bytes, str] = {}
        for index in members:
            try:
                digest = hashlib.blake2b(paths[index].read_bytes()).digest()
            except OSError:
                continue
            one, other = lead(first_of.setdefault(digest, groups[index])), lead(groups[index])
            if one != other:
                leader[max(one, other)] = min(one, other)
    return [lead(group) for group in groups]


def choose_validation(groups: Sequence[str], classes: Sequence[set[int]], fraction: float) -> np.ndarray | None:
    """Return (I,) bool, the images of the groups that validate; None where all images are of one group.

    Args:
        groups: I names.
        classes: I sets of the classes that an image shows.
        fraction: wanted share of the images, in 0..1.
    """
    sizes = Counter(groups)
    if len(sizes) < 2:
        return None
    shows: dict[str, set[int]] = defaultdict(set)
    for group, labels in zip(groups, classes, strict=True):
        shows[group] |= labels
    ranked = sorted(sizes, key=lambda group: hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest())
    wanted = fraction * len(groups)
    chosen = _fill(ranked, sizes, wanted)
    _cover_classes(chosen, ranked, sizes, shows)
    return np.array([group in chosen for group in groups])


def _fill(ranked: Sequence[str], sizes: Counter[str], wanted: float) -> set[str]:
    """Groups in their rank, each of which brings the number of images nearer to `wanted`; the smallest one where
    none does, and never all."""
    chosen: set[str] = set()
    num = 0
    for group in ranked:
        if sizes[group] < 2 * (wanted - num) and len(chosen) < len(ranked) - 1:
            chosen.add(group)
            num += sizes[group]
    return chosen or {min(ranked, key=lambda group: sizes[group])}


def _cover_classes(
    chosen: set[str], ranked: Sequence[str], sizes: Counter[str], shows: dict[str, set[int]]
) -> None:
    """Swap groups so that each class of two or more groups is on both sides, where that takes none off a side."""
    frequency = Counter(label for group in ranked for label in shows[group])
    inside = Counter(label for group in chosen for label in shows[group])
    for label in sorted(label for label, num in frequency.items() if num > 1):
        for missing_inside in (True, False):
            if inside[label] != (0 if missing_inside else frequency[label]):
                continue
            swap = _best_swap(label, missing_inside, chosen, ranked, sizes, shows, frequency, inside)
            if swap is None:
                continue
            joins, leaves = swap
            for group, sign in ((joins, 1), (leaves, -1)):
                if group is not None:
                    (chosen.add if sign > 0 else chosen.remove)(group)
                    for other in shows[group]:
                        inside[other] += sign


def _best_swap(
    label: int,
    missing_inside: bool,
    chosen: set[str],
    ranked: Sequence[str],
    sizes: Counter[str],
    shows: dict[str, set[int]],
    frequency: Counter[int],
    inside: Counter[int],
) -> tuple[str | None, str | None] | None:
    """The group to join the chosen ones and the one to leave them; None where every swap takes a class off a side.

    Of all swaps it is the one that changes the number of images least, at a tie the first in rank.
    """
    with_label = [group for group in ranked if label in shows[group]][:MOST_TRIED]
    outside = [group for group in ranked if group not in chosen][:MOST_TRIED]
    within = [group for group in ranked if group in chosen][:MOST_TRIED]
    joining = with_label if missing_inside else [*outside, None]
    leaving = [*within, None] if missing_inside else with_label
    best: tuple[int, tuple[str | None, str | None]] | None = None
    for joins in joining:
        for leaves in leaving:
            after = Counter(inside)
            for group, sign in ((joins, 1), (leaves, -1)):
                for other in shows[group] if group is not None else ():
                    after[other] += sign
            touched = (shows[joins] if joins is not None else set()) | (
                shows[leaves] if leaves is not None else set()
            )
            covers = all(
                0 < after[other] < frequency[other]
                for other in touched
                if other == label or 0 < inside[other] < frequency[other]
            )
            num = len(chosen) + (joins is not None) - (leaves is not None)
            if not covers or not 0 < num < len(ranked):
                continue
            change = abs((sizes[joins] if joins is not None else 0) - (sizes[leaves] if leaves is not None else 0))
            if best is None or change < best[0]:
                best = change, (joins, leaves)
                if not change:
                    return best[1]
    return best[1] if best else None
