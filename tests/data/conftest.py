"""Small data sets written on the spot, and the folder of real ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssdlite.structures import DataSplit, Record


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("SSDLITE_TEST_DATA")
    if not folder:
        pytest.skip("SSDLITE_TEST_DATA does not name a folder with bccd, helmet and coco128")
    return Path(folder)


def write_image(path: Path, size: tuple[int, int] = (40, 60), pixels: np.ndarray | None = None) -> None:
    """Write an image of `pixels`, or of noise that is the same for all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def make_coco(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes images and their annotation file; gives (images folder, annotation file)."""

    def make(
        annotations: list[dict[str, Any]],
        names: dict[int, str] | None = None,
        images: list[dict[str, Any]] | None = None,
        folder: str = "images",
        file: str = "annotations/instances_train.json",
    ) -> tuple[Path, Path]:
        if images is None:
            images = [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}]
        categories = [{"id": key, "name": name} for key, name in (names or {7: "dog", 3: "cat"}).items()]
        for image in images:
            write_image(tmp_path / folder / image["file_name"])
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return tmp_path / folder, path

    return make


VocObject = tuple[str, tuple[Any, Any, Any, Any]]


def voc_xml(objects: list[VocObject], size: str | None = None, extra: str = "") -> str:
    size = "<size><width>60</width><height>40</height></size>" if size is None else size
    items = "".join(
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in objects
    )
    return f"<annotation><filename>wrong.jpg</filename>{size}{items}</annotation>"


@pytest.fixture
def make_voc(tmp_path: Path) -> Callable[..., Path]:
    """Writes a VOC root from {split: {stem: xml}}."""

    def make(splits: dict[str, dict[str, str | bytes]], root: str = "voc") -> Path:
        for split, files in splits.items():
            names = tmp_path / root / "ImageSets" / "Main" / f"{split}.txt"
            names.parent.mkdir(parents=True, exist_ok=True)
            names.write_text("".join(f"{stem}\n" for stem in files))
            for stem, xml in files.items():
                path = tmp_path / root / "Annotations" / f"{stem}.xml"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(xml.encode() if isinstance(xml, str) else xml)
                write_image(tmp_path / root / "JPEGImages" / f"{stem}.png")
        return tmp_path / root

    return make


@pytest.fixture
def split(tmp_path: Path) -> DataSplit:
    """Nine different images with 0, 1, 2, 0, 1, … objects."""
    records = []
    rng = np.random.default_rng(0)
    for index in range(9):
        path = tmp_path / f"{index}.png"
        write_image(path, pixels=rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        count = index % 3
        records.append(
            Record(
                image_path=path,
                image_id=100 + index,
                size=(40, 60),
                boxes=np.array([[10, 5, 40, 30], [5, 5, 20, 35]], np.float32)[:count],
                labels=np.arange(1, count + 1),
                ignore=np.array([False, True])[:count],
                crowd=np.zeros(count, bool),
                areas=np.full(count, 750, np.float32),
            )
        )
    return DataSplit(records, ("cat", "dog"), (3, 7))
