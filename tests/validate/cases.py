"""Small data sets, and the kinds of their problems."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssdlite.data.formats.problems import Problem


def kinds(problems: Iterable[Problem], *, notes: bool = False) -> list[str]:
    """In alphabetical order."""
    return sorted(problem.kind for problem in problems if notes or problem.severity != "note")


def write_noise(path: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> None:
    """An image of (height, width) that is another for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def coco_document(**changes: Any) -> dict[str, Any]:
    """Two images of 60x40, two classes of twenty objects, nothing wrong; `changes` replace its lists."""
    boxes = [
        [5, 5, 20, 10],
        [30, 10, 20, 20],
    ]  # each a little larger than the one before, so that none repeats another
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in (1, 2)],
        "annotations": [
            {
                "id": n,
                "image_id": 1 + n % 2,
                "category_id": 3 + 4 * (n // 2 % 2),
                "bbox": [*boxes[n % 2][:3], boxes[n % 2][3] + n / 8],
            }
            for n in range(40)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        **changes,
    }


def write_coco(folder: Path, document: Any, name: str = "train", seed: int = 0) -> tuple[Path, Path]:
    """(images folder, annotation file) in COCO's layout."""
    for n in (1, 2):
        write_noise(folder / name / f"{n}.png", seed=seed + n)
    path = folder / "annotations" / f"instances_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return folder / name, path
