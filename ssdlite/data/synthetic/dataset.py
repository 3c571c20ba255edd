"""Writes a drawn data set in COCO's layout: something to train on within a minute, with no download.

    output_dir/dataset.json                           what was drawn, and whether it is finished
    output_dir/{train,val}/000001.jpg ...
    output_dir/annotations/instances_{train,val}.json

A picture depends on (seed, split, its number, size) alone, so a larger set begins with the smaller one, and
the same call writes the same bytes again (with the same versions of OpenCV and NumPy).
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np

from ssdlite.data.synthetic.pictures import DrawnObject, draw_scene
from ssdlite.errors import ConfigError, DataError

CATEGORY_IDS = {"ring": 1, "triangle": 2, "rectangle": 4, "star": 7, "cross": 8, "heart": 11}
"""Category ids with gaps, as COCO's are: a reader that takes category ids for labels fails here first."""


SPLITS = ("train", "val")


GENERATOR = "ssdlite make-data"


VERSION = 1  # raise it with every change to a picture's bytes


IMAGES_PER_TASK = 64  # at about 6 ms each, long enough to hide a task's overhead


MIN_SIZE = 32


JPEG_QUALITY = (50, 95)


Progress: TypeAlias = Callable[[int, int], None]  # (images drawn, images in all)


Task: TypeAlias = tuple[str, int, int]  # split, first number, one past the last


Scene: TypeAlias = list[DrawnObject]


logger = logging.getLogger(__name__)


def make_synthetic(
    output_dir: Path,
    *,
    num_train: int,
    num_val: int,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Draws `num_train` + `num_val` images of `size` (height, width) into `output_dir`.

    A finished set of the same arguments is left alone; one of the same seed and size may grow; an unfinished
    one is drawn anew. `workers` processes draw (default: one a core). Boxes are modal as COCO's, tight around
    the pixels that can be seen, and `area` counts those; no object is hidden or cut by more than 15 %.

    Raises ConfigError for impossible numbers, DataError if `output_dir` holds anything else.
    """
    _check_arguments(num_train, num_val, size, seed)
    counts = {"train": num_train, "val": num_val}
    metadata = _describe(counts, size, seed)
    output_dir = Path(output_dir)
    if _is_finished(output_dir, metadata):
        logger.info("%s already holds this very set; nothing was drawn", output_dir)
        return
    try:
        _write_set(output_dir, metadata, counts, partial(_draw_range, output_dir, size, seed), workers, progress)
    except OSError as error:
        raise DataError(
            f"{output_dir}: {error.strerror or error}; mend this and run the same command again"
        ) from error


def _check_arguments(num_train: int, num_val: int, size: tuple[int, int], seed: int) -> None:
    if num_train < 1 or num_val < 0:
        raise ConfigError(f"cannot draw {num_train} train and {num_val} val images; ask for at least 1 and 0")
    if min(size) < MIN_SIZE:
        raise ConfigError(f"size {size[0]}x{size[1]} is too small to draw in; take at least {MIN_SIZE}x{MIN_SIZE}")
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative; take 0 or more")


def _describe(counts: dict[str, int], size: tuple[int, int], seed: int) -> dict[str, Any]:
    return {
        "generator": GENERATOR,
        "version": VERSION,
        "seed": seed,
        "size": list(size),
        "num_images": counts,
        "libraries": {"numpy": np.__version__, "opencv": cv2.__version__},
    }


def _is_finished(output_dir: Path, wanted: dict[str, Any]) -> bool:
    """True for a finished set of the same arguments; DataError for a folder that must not be written to."""
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return False
    found = _read_metadata(output_dir)
    if found is None:
        raise DataError(f"{output_dir} is no drawn data set and not empty; name a new or an empty folder")
    if not found["finished"]:
        return False
    if any(found[key] != wanted[key] for key in ("version", "seed", "size")) or any(
        found["num_images"][split] > wanted["num_images"][split] for split in SPLITS
    ):
        raise DataError(
            f"{output_dir} holds another drawn set (seed {found['seed']}, size {found['size']}, "
            f"images {found['num_images']}); name another folder or delete it"
        )
    return bool(found["num_images"] == wanted["num_images"])


def _read_metadata(output_dir: Path) -> dict[str, Any] | None:
    """The content of dataset.json, or None if the folder is not ours."""
    try:
        found = json.loads((output_dir / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("generator") == GENERATOR else None


def _write_set(
    output_dir: Path,
    metadata: dict[str, Any],
    counts: dict[str, int],
    draw: Callable[[Task], list[Scene]],
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Images first, then annotations, so that an interrupted set has none to train on."""
    found = _read_metadata(output_dir)
    if found is not None and not found["finished"]:
        for name in (*SPLITS, "annotations"):
            shutil.rmtree(output_dir / name, ignore_errors=True)
    for name in (*SPLITS, "annotations"):
        (output_dir / name).mkdir(parents=True, exist_ok=True)
    _write_json(output_dir / "dataset.json", {**metadata, "finished": False})
    tasks = [
        (split, start, min(start + IMAGES_PER_TASK, counts[split] + 1))
        for split in SPLITS
        for start in range(1, counts[split] + 1, IMAGES_PER_TASK)
    ]
    scenes: dict[str, list[Scene]] = {split: [] for split in SPLITS}
    for (split, _, _), drawn in zip(tasks, _run_tasks(draw, tasks, workers), strict=True):
        scenes[split] += drawn
        if progress is not None:
            progress(sum(map(len, scenes.values())), sum(counts.values()))
    for split in reversed(SPLITS):  # a lone train file would be taken for a set without validation
        path = output_dir / "annotations" / f"instances_{split}.json"
        _write_json(path, _to_coco(scenes[split], metadata))
    _write_json(output_dir / "dataset.json", {**metadata, "finished": True})


def _run_tasks(
    draw: Callable[[Task], list[Scene]], tasks: list[Task], workers: int | None
) -> Iterator[list[Scene]]:
    """The result of each task in order. Few tasks are not worth the start of processes."""
    workers = min(workers or os.cpu_count() or 1, len(tasks) // 2)
    if workers <= 1:
        yield from map(draw, tasks)
        return
    # Spawned, since a forked child of a process with threads (torch, OpenCV) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            yield from pool.map(draw, tasks)
        except BrokenProcessPool as error:
            raise DataError("a drawing process could not start or was killed; run again with workers=1") from error


def _draw_range(output_dir: Path, size: tuple[int, int], seed: int, task: Task) -> list[Scene]:
    """Writes the images of one task; what each holds."""
    split, start, stop = task
    scenes = []
    for number in range(start, stop):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        image, objects = draw_scene(rng, size)
        quality = int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1))
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        (output_dir / split / _file_name(number)).write_bytes(encoded.tobytes())
        scenes.append(objects)
    return scenes


def _file_name(number: int) -> str:
    return f"{number:06d}.jpg"


def _to_coco(scenes: list[Scene], metadata: dict[str, Any]) -> dict[str, Any]:
    """COCO's instances JSON. Ids count from 1: pycocotools takes an annotation id of 0 for 'no match'."""
    height, width = metadata["size"]
    annotations: list[dict[str, Any]] = []
    for image_id, objects in enumerate(scenes, start=1):
        for drawn in objects:
            x1, y1, x2, y2 = drawn.box
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": CATEGORY_IDS[drawn.class_name],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": drawn.area,
                "iscrowd": 0,
            }
            annotations.append(annotation)
    return {
        "info": {"description": f"drawn by {GENERATOR}", "version": str(VERSION), "seed": metadata["seed"]},
        "images": [
            {"id": number, "file_name": _file_name(number), "width": width, "height": height}
            for number in range(1, len(scenes) + 1)
        ],
        "annotations": annotations,
        "categories": [
            {"id": category_id, "name": name, "supercategory": "shape"}
            for name, category_id in CATEGORY_IDS.items()
        ],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial_path = path.with_name(f".{path.name}.part")
    partial_path.write_text(json.dumps(content, indent=None if "images" in content else 2) + "\n", encoding="utf-8")
    partial_path.replace(path)
