"""Small data sets of any format, and what was read of them."""

from __future__ import annotations

from pathlib import Path

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.structures import DataSplit

from ..conftest import write_image

Row = tuple[str, list[float]]


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_images(folder: Path, *names: str) -> None:
    """Write images of 60x40."""
    for name in names:
        write_image(folder / name)


def rows_of(split: DataSplit) -> dict[str, list[Row]]:
    """Return class and box of each object, by the name of its image."""
    return {
        record.image_path.name: [
            (split.class_names[label - 1], [round(side, 3) for side in box])
            for label, box in zip(record.labels.tolist(), record.boxes.tolist(), strict=True)
        ]
        for record in split.records
    }


def read_train(path: Path) -> DataSplit:
    """Read the training set that is found at `path`."""
    return read_split(find_layout(path).train)
