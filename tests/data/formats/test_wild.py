"""Data sets as people left them, against counts that were made without this package."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ssdlite.data.formats.layout import find_layout, read_split

SETS = ["cards", "bootlegger", "empire", "books", "rebars", "labelme_tony", "heads"]
UNNAMED = {"heads": "head"}  # of VIA without a class attribute, where ours is "object"


@pytest.fixture
def wild(real_data) -> Path:
    if not (real_data / "wild/counts.json").is_file():
        pytest.skip("there is no folder wild with counts.json beside the real data sets")
    return real_data / "wild"


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_counts(wild, tmp_path, name, above):
    """At the set's root, and at the folder above."""
    root = wild / name
    if above:
        shutil.copytree(root, tmp_path / name)
        root = tmp_path
    layout = find_layout(root)
    rows = [row for row in json.loads((wild / "counts.json").read_text()) if row["set"] == name]
    places = {
        "train": layout.train,
        "valid": layout.val,
        "val": layout.val,
        "test": layout.test,
        None: layout.train,
    }
    class_names = None
    for row in rows:
        split = read_split(places[row["split"]], class_names)
        class_names = split.class_names
        assert len(split) == row["images"] and sum(len(record.boxes) for record in split.records) == row["boxes"]
        assert sum(not len(record.boxes) for record in split.records) == row["images_without_objects"]
        names = [UNNAMED.get(name, "object") if each == "object" else each for each in split.class_names]
        labels = np.concatenate([record.labels for record in split.records])
        assert Counter(names[label - 1] for label in labels) == row["per_class"]
        by_name = {record.image_path.name: record for record in split.records}
        for image, class_name, box in row["samples"]:
            record = by_name[image]
            boxes = record.boxes[[names[label - 1] == class_name for label in record.labels]]
            assert np.abs(boxes - box).max(axis=1).min() < 0.01, image
