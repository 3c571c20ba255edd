from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ssdlite.data.split import choose_validation, frame_blocks, group_images, original_name, split_off_validation
from ssdlite.structures import DataSplit, Record


def record(path: Path, *labels: int, ignore: bool = False) -> Record:
    num = len(labels)
    boxes = np.tile(np.array([1, 1, 9, 9], np.float32), (num, 1))
    flags = np.full(num, ignore)
    return Record(
        path, path.name, (40, 60), boxes, np.array(labels, np.int64), flags, flags, np.ones(num, np.float32)
    )


def make_split(root: Path, names: list[str], labels: list[int] | None = None) -> DataSplit:
    """Images of distinct bytes."""
    root.mkdir(exist_ok=True)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    records = [record(root / name, label) for name, label in zip(names, labels or [1] * len(names), strict=True)]
    return DataSplit(records, ("a", "b", "c"), (1, 2, 3))


def names_of(split: DataSplit) -> set[str]:
    return {record.image_path.name for record in split.records}


WORDS = [f"{first}{second}{third}" for first in "abcde" for second in "fghij" for third in "klmn"]  # 100 words


@pytest.mark.parametrize(("fraction", "expected"), [(0.2, 20), (0.1, 10), (0.5, 50), (0.001, 1), (0.999, 99)])
def test_the_share_is_exact_where_each_image_is_a_group(tmp_path, fraction, expected):
    split = make_split(tmp_path, [f"{word}.jpg" for word in WORDS])
    train, val = split_off_validation(split, fraction)
    assert (len(train), len(val)) == (100 - expected, expected)
    assert names_of(train) | names_of(val) == names_of(split) and not names_of(train) & names_of(val)


def test_the_split_does_not_depend_on_order_place_or_neighbours(tmp_path):
    names = [f"{word}.jpg" for word in WORDS]
    _, first = split_off_validation(make_split(tmp_path / "one", names), 0.2)
    random.Random(0).shuffle(names)
    _, other = split_off_validation(make_split(tmp_path / "other/place" if False else tmp_path / "two", names), 0.2)
    assert names_of(first) == names_of(other)
    _, fewer = split_off_validation(make_split(tmp_path / "three", names[:-10]), 0.2)
    assert len(names_of(fewer) & names_of(first)) >= 15  # a few images more or less change little


def test_copies_of_one_original_stay_together(tmp_path):
    """19 originals with 18 copies each, as of the set `books`: the share is exact to within one group."""
    names = [f"{WORDS[n]}_jpg.rf.{copy:032x}.jpg" for n in range(19) for copy in range(18)]
    train, val = split_off_validation(make_split(tmp_path, names), 0.2)
    originals = [{name.split(".rf.")[0] for name in names_of(side)} for side in (train, val)]
    assert not originals[0] & originals[1] and (len(originals[0]), len(originals[1])) == (15, 4)
    assert abs(len(val) - 0.2 * len(names)) < 18


def test_original_name():
    assert original_name("a/IMG_1_jpg.rf.0f3a") == "a/IMG_1"
    assert (
        original_name("b_png.rf.00") == "b"
        and original_name("c_jpg") == "c_jpg"
        and original_name("d.rf.x/e") == "d.rf.x/e"
    )


def test_files_of_the_same_bytes_stay_together(tmp_path):
    split = make_split(tmp_path, ["p.jpg", "q.jpg", "r.jpg", "s.jpg"])
    for name in ("p.jpg", "s.jpg"):
        (tmp_path / name).write_bytes(b"12345")
    groups = group_images(split.records)
    assert groups[0] == groups[3] and len(set(groups)) == 3
    (tmp_path / "q.jpg").unlink()  # an image that is not there is alone
    assert len(set(group_images(split.records))) == 3


def test_frames_of_a_film_are_cut_into_blocks():
    names = [f"film/frame_{number:05d}" for number in range(0, 3000, 30)]
    blocks = frame_blocks(names)
    assert Counter(blocks) == dict.fromkeys(dict.fromkeys(blocks), 10) and len(set(blocks)) == 10
    assert all(len(set(blocks[start : start + 10])) == 1 for start in range(0, 100, 10))  # neighbours
    shuffled = random.Random(0).sample(names, len(names))
    assert dict(zip(shuffled, frame_blocks(shuffled), strict=True)) == dict(zip(names, blocks, strict=True))


def test_numbers_that_are_no_film():
    """COCO's ids, time stamps, and a handful of files."""
    ids = [f"{number:012d}" for number in random.Random(0).sample(range(600_000), 128)]
    assert frame_blocks(ids) == ids
    few = [f"frame_{number}" for number in range(9)]
    assert frame_blocks(few) == few


def test_each_class_is_on_both_sides_where_it_can_be():
    """A class of two images of a hundred is on each side once, whatever the hash says; a class of one stays."""
    for start in range(0, 90, 10):
        groups = WORDS
        classes = [{1} for _ in groups]
        classes[start].add(2)
        classes[start + 5].add(2)
        classes[start + 7] = {3}
        is_val = choose_validation(groups, classes, 0.2)
        assert is_val.sum() == 20 and is_val[start] != is_val[start + 5], start


def test_objects_to_ignore_cover_no_class(tmp_path):
    split = make_split(tmp_path, [f"{word}.jpg" for word in WORDS])
    split.records[0] = record(split.records[0].image_path, 2, ignore=True)
    split.records[1] = record(split.records[1].image_path, 2, ignore=True)
    before = [split_off_validation(make_split(tmp_path, [f"{word}.jpg" for word in WORDS]), 0.2)]
    assert names_of(split_off_validation(split, 0.2)[1]) == names_of(before[0][1])


def test_a_single_group_cannot_be_split(tmp_path):
    assert split_off_validation(make_split(tmp_path, ["a_jpg.rf.1.jpg", "a_jpg.rf.2.jpg"]), 0.2) is None
    assert choose_validation([], [], 0.2) is None
    assert choose_validation(["a", "b"], [{1}, {1}], 0.2).sum() == 1
