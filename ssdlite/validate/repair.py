"""Cleaned copies of annotations: the originals are never touched, and images are linked, not copied.

Start with `write_fixed`; `plan_repair` decides what of a source is kept, and how its boxes change.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from ssdlite.data.formats.base import Annotations, Source
from ssdlite.data.formats.coco import CocoAnnotations, CocoSource, load_annotations
from ssdlite.data.formats.layout import find_layout
from ssdlite.data.formats.registry import options_of_source
from ssdlite.data.formats.voc import CORNERS, VocAnnotations, VocSource, parse_annotation, parse_object, read_list
from ssdlite.data.formats.write import coco_document
from ssdlite.errors import ConfigError, DataError
from ssdlite.io import write_text
from ssdlite.structures import DataSplit, Record
from ssdlite.validate.check import CheckReport, SourceCheck
from ssdlite.validate.rules import TOLERANCE, looks_other, other_corners, repeated_objects


@dataclass(eq=False)
class Plan:
    """One source as it should be. I images and N objects are those of `annotations`."""

    annotations: Annotations
    keep_images: np.ndarray  # (I,) bool
    sizes: np.ndarray  # (I, 2) height and width
    keep_objects: np.ndarray  # (N,) bool; none of an image that goes
    corners: np.ndarray  # (N, 4) float64 xyxy, in the file's own counting
    changed: np.ndarray  # (N,) bool: the box is not the file's
    scaled: np.ndarray  # (N,) bool: with its image
    names: list[str]  # of each class, one spelling for all
    changes: Counter[str]  # what a person is told


def plan_repair(source: SourceCheck, report: CheckReport, box_form: BoxForm | None = None) -> Plan:
    """Return what a cleaned copy keeps of a source, and its boxes.

    The four numbers of all boxes are read as `box_form`, which must be said where they look like another form than
    the format's. Repeated objects go. Repeated and unusable images go, sizes become the images', inverted boxes
    are turned, and all are clipped. If a size is wrong but has the image's proportions, and its boxes lie within
    it, the image was made larger or smaller after it was annotated: then the boxes are scaled as well.
    """
    annotations = source.annotations
    facts = [report.facts[path] for path in annotations.paths]
    keep_images = np.array([fact.usable for fact in facts], bool) & ~source.repeated
    known = np.asarray((annotations.sizes > 0).all(axis=1))
    sizes = annotations.sizes.copy()
    for index, fact in enumerate(facts):
        annotated = int(sizes[index, 0]), int(sizes[index, 1])
        if fact.size and not (known[index] and fact.fits(annotated)):
            sizes[index] = fact.size
    is_other = box_form not in (None, annotations.box_form) and annotations.box_form is not None
    if box_form is None and looks_other(annotations, source.sizes):
        other = "xyxy" if annotations.box_form == "xywh" else "xywh"
        raise DataError(
            f"{annotations.source}: its boxes look like {other}, and {annotations.box_form} is what its format "
            f"has; convert all of them with --boxes {other}, or keep them with --boxes {annotations.box_form}"
        )
    corners = other_corners(annotations) if is_other else annotations.corners
    corners = np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1
    )
    boxes = annotations.boxes(corners)
    corrected = (sizes != annotations.sizes).any(axis=1)
    resized = known & corrected & _same_proportions(annotations.sizes, sizes)
    resized[annotations.owners[~_inside(boxes, annotations.sizes[annotations.owners])]] = False
    factors = np.where(resized[:, None], sizes / np.maximum(annotations.sizes, 1), 1.0)[annotations.owners]
    limits = sizes[annotations.owners][:, [1, 0, 1, 0]]
    with np.errstate(invalid="ignore"):
        boxes = np.clip(boxes * factors[:, [1, 0, 1, 0]], 0, limits)
        rounded = boxes.astype(np.float32)
        has_area = np.isfinite(boxes).all(axis=1) & (rounded[:, 2:] > rounded[:, :2]).all(axis=1)
        changed = (boxes != annotations.boxes()).any(axis=1)
    first = int(annotations.counts_from_one)
    corners = boxes + np.array([first, first, 0, 0])
    if annotations.counts_from_one:  # a single pixel is written as a point is, and read as one
        has_area &= (corners[:, :2] != corners[:, 2:]).any(axis=1)
    names = [report.spellings.get(name, name) for name in annotations.class_names]
    wanted = {report.spellings.get(name, name) for name in report.class_names}
    is_known = np.array([report.ignore_unknown or name in wanted for name in names], bool)
    of_kept = keep_images[annotations.owners]
    is_repeated = repeated_objects(annotations, corners)
    keep_objects = of_kept & has_area & is_known[annotations.labels] & ~is_repeated
    changes = Counter(
        {
            "boxes converted": int(keep_objects.sum()) if is_other else 0,
            "boxes turned or cut": 0
            if is_other
            else int((changed & keep_objects & ~resized[annotations.owners]).sum()),
            "sizes corrected": int((known & keep_images & corrected & ~resized).sum()),
            "sizes corrected and boxes scaled with them": int((resized & keep_images).sum()),
            "class names spelt as another": sum(
                old != new for old, new in zip(annotations.class_names, names, strict=True)
            ),
        }
    )
    scaled = resized[annotations.owners]
    return Plan(annotations, keep_images, sizes, keep_objects, corners, changed, scaled, names, +changes)


def _same_proportions(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """(I,) bool: whether one size (I, 2) is the other times a factor, but for rounding."""
    factors = new / np.maximum(old, 1)
    # A side is off by half a pixel at most, so the two factors by a share of one over the smaller image's side.
    tolerance = factors.max(axis=1) / np.maximum(np.minimum(old, new).min(axis=1), 1)
    return np.asarray(np.abs(factors[:, 0] - factors[:, 1]) <= tolerance)


def _inside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: within sizes (N, 2) of height and width."""
    limits = sizes[:, [1, 0, 1, 0]]
    with np.errstate(invalid="ignore"):
        return np.asarray(~((boxes < -TOLERANCE) | (boxes > limits + TOLERANCE)).any(axis=1))


BoxForm: TypeAlias = Literal["xyxy", "xywh"]
"""Meaning of the four numbers of a box in a file."""


CHANGES_FILE = "changes.json"
"""File in the folder of a cleaned copy with each change, by source."""


DIGITS = 4  # of a pixel that are written of a box


@dataclass(frozen=True)
class FixedCopy:
    """Sources of a cleaned copy that was written."""

    train: list[Source]
    val: list[Source]  # empty where it is the training set
    changes: Counter[str]  # what was changed, and how often


def require_new(directory: Path) -> None:
    """Raise ConfigError if there is anything at `directory` but an empty folder."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ConfigError(f"--fix {directory}: there is something already; name a new folder.")


def write_fixed(report: CheckReport, directory: Path, box_form: BoxForm | None = None) -> FixedCopy:
    """Write the annotations of `report`, which must be of `check_splits`, into `directory`, cleaned.

    COCO becomes annotations/instances_train.json with a link `train` to its images (a second source
    instances_train2.json, and so on), VOC keeps its layout, with JPEGImages a link; any other format is written as
    COCO. See `plan_repair` for what is cleaned; changes.json lists each change. Raises DataError if nothing of a
    source can be kept or its boxes look like another form than `box_form`, and ConfigError as `require_new`.
    """
    require_new(directory)
    sources = [*report.train, *report.val]
    plans = {id(source): plan_repair(source, report, box_form) for source in sources}
    for source in sources:
        if not plans[id(source)].keep_images.any():
            raise DataError(
                f"{source.annotations.source}: none of its images can be kept; correct what is said of the whole "
                "first"
            )
    roots = _choose_roots(sources, directory)
    directory.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[Source]] = {"train": [], "val": []}
    changes: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    done: set[Path] = set()
    for split, members in (("train", report.train), ("val", report.val)):
        for source in members:
            plan = plans[id(source)]
            annotations = source.annotations
            number = sum(isinstance(other, CocoSource) for other in written[split]) + 1
            name = split if number == 1 else f"{split}{number}"
            match annotations:
                case VocAnnotations():
                    copy: Source = _write_voc(plan, annotations, roots[annotations.source.root], done)
                case CocoAnnotations():
                    copy = _write_coco(plan, annotations, directory, name)
                case _:
                    copy = _write_as_coco(plan, directory, name)
            written[split].append(copy)
            source_changes = _count_changes(source, plan, copy)
            changes += source_changes
            rows.append(
                {
                    "split": split,
                    "source": str(annotations.source),
                    "changes": dict(source_changes),
                    **_list_changes(source, plan),
                }
            )
    write_text(directory / CHANGES_FILE, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return FixedCopy(written["train"], written["val"], changes)


def _count_changes(source: SourceCheck, plan: Plan, copy: Source) -> Counter[str]:
    """Differences between a source and its copy: the items of both files are counted, also those that no reader
    took."""
    before, after = _count_items(source.annotations.source, source), _count_items(copy)
    lost = {name: before[name] - after[name] for name in before}
    lost = {f"{name} left out": num for name, num in lost.items()}
    num_flags = sum(problem.kind == "flag-unclear" for problem in source.problems)
    return +Counter({**lost, **plan.changes, "flags set to 0": num_flags})


def _count_items(source: Source, check: SourceCheck | None = None) -> dict[str, int]:
    """Images and objects in the files of a source, whether they can be used or not."""
    match source:
        case CocoSource() if (document := _document_of(source)) is not None:
            return {"images": len(document["images"]), "objects": len(document["annotations"])}
        case VocSource():
            stems = dict.fromkeys(stem for split in source.splits for stem in read_list(source.root, split))
            num_objects = 0
            for stem in stems:
                with contextlib.suppress(DataError):
                    annotation = parse_annotation(source.root / "Annotations" / f"{stem}.xml")
                    num_objects += len(annotation.findall("object"))
            return {"images": len(stems), "objects": num_objects}
    assert check is not None  # a copy is COCO or VOC
    kinds = Counter(problem.kind for problem in check.problems)
    return {
        "images": len(check.annotations.paths) + kinds["image-entry-broken"],
        "objects": len(check.annotations.labels) + kinds["object-broken"] + kinds["object-without-box"],
    }


def _document_of(source: CocoSource) -> dict[str, Any] | None:
    try:
        return load_annotations(source.annotations)
    except DataError:
        return None


def _list_changes(source: SourceCheck, plan: Plan) -> dict[str, list[Any]]:
    """Names of what goes and changes, for the file beside the copy."""
    annotations = source.annotations
    of_kept = plan.keep_images[annotations.owners]
    lost = np.flatnonzero(of_kept & ~plan.keep_objects).tolist()
    changed = np.flatnonzero(plan.changed & plan.keep_objects).tolist()
    before = annotations.corners
    sizes = np.flatnonzero(plan.keep_images & (annotations.sizes != plan.sizes).any(axis=1)).tolist()
    return {
        "images_left_out": [annotations.items[index] for index in np.flatnonzero(~plan.keep_images).tolist()],
        "objects_left_out": [annotations.name_object(index) for index in lost],
        "not_readable": [str(each) for each in source.problems if each.severity == "error"],
        "boxes_changed": [
            {
                "object": annotations.name_object(index),
                "before": [float(f"{side:g}") for side in before[index]],
                "after": [float(f"{side:g}") for side in plan.corners[index]],
            }
            for index in changed
        ],
        "sizes_changed": [
            {
                "image": annotations.items[index],
                "before": annotations.sizes[index].tolist(),
                "after": plan.sizes[index].tolist(),
            }
            for index in sizes
        ],
    }


def train_command(copy: FixedCopy, directory: Path) -> str:
    """The command line that trains on the copy."""
    val = copy.val or copy.train
    try:
        layout = find_layout(directory)
        if (layout.train, layout.val or layout.train) == (copy.train, val):
            return f"ssdlite train data={shlex.quote(str(directory))}"
    except DataError:  # several sources of one kind are no layout
        pass
    splits = {"train": copy.train, "val": val}
    words = [
        f"data.{split}={json.dumps([*map(options_of_source, sources)])}"
        for split, sources in splits.items()
        if sources
    ]
    return "ssdlite train " + " ".join(map(shlex.quote, words))


def _choose_roots(sources: Sequence[SourceCheck], directory: Path) -> dict[Path, Path]:
    """A folder for each VOC root: `directory` itself if there is one root and nothing else, otherwise one in it."""
    given = [source.annotations.source for source in sources]
    roots = list(dict.fromkeys(source.root for source in given if isinstance(source, VocSource)))
    if len(roots) == 1 and all(isinstance(source, VocSource) for source in given):
        return {roots[0]: directory}
    chosen: dict[Path, Path] = {}
    for number, root in enumerate(roots, 1):
        name = root.resolve().name
        taken = {path.name for path in chosen.values()} | {"annotations", "train", "val"}
        chosen[root] = directory / (f"{name}-{number}" if name in taken or not name else name)
    return chosen


def _link(link: Path, folder: Path) -> bool:
    """Make `link` lead to `folder`; False where that is not allowed."""
    try:
        link.symlink_to(folder.resolve(), target_is_directory=True)
    except OSError:  # Windows allows it to developers only
        return False
    return True


def _write_coco(plan: Plan, annotations: CocoAnnotations, directory: Path, name: str) -> CocoSource:
    document = annotations.document
    assert document is not None, "an image was kept"
    images = []
    for index in np.flatnonzero(plan.keep_images).tolist():
        entry = document["images"][annotations.entries[index]]
        height, width = plan.sizes[index].tolist()
        same = entry.get("height") == height and entry.get("width") == width
        images.append(entry if same else {**entry, "height": height, "width": width})
    categories: dict[str, dict[str, Any]] = {}
    for category in document["categories"]:
        category_id = category.get("id") if isinstance(category, dict) else None
        label = annotations.label_of_category.get(category_id) if isinstance(category_id, int | float) else None
        if label is not None:
            categories.setdefault(plan.names[label], {**category, "name": plan.names[label]})
    ids = [categories[name]["id"] for name in plan.names]
    objects = [
        _coco_object(
            document["annotations"][annotations.positions[index]], plan, index, ids[annotations.labels[index]]
        )
        for index in np.flatnonzero(plan.keep_objects).tolist()
    ]
    objects = _with_distinct_ids(objects)
    cleaned = {**document, "images": images, "annotations": objects, "categories": list(categories.values())}
    return _write_document(cleaned, directory, name, annotations.source.images)


def _with_distinct_ids(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`objects`, where an id that repeats an earlier one is a new number."""
    ids = [item.get("id") for item in objects]
    if len(set(map(repr, ids))) == len(ids) and None not in ids:
        return objects
    free = max((number for number in ids if type(number) is int), default=0)
    taken: set[str] = set()
    distinct = []
    for item in objects:
        number = item.get("id")
        if number is None or repr(number) in taken:
            free += 1
            item = {**item, "id": free}
        taken.add(repr(item["id"]))
        distinct.append(item)
    return distinct


def _write_document(document: dict[str, Any], directory: Path, name: str, images_dir: Path) -> CocoSource:
    path = directory / "annotations" / f"instances_{name}.json"
    write_text(path, json.dumps(document, ensure_ascii=False))
    link = directory / name
    return CocoSource(link if _link(link, images_dir) else images_dir.resolve(), path)


def _write_as_coco(plan: Plan, directory: Path, name: str) -> CocoSource:
    """A new COCO file of what is kept, as `convert-data` writes it; the images stay where they are."""
    split = _as_split(plan)
    paths = [record.image_path.absolute() for record in split.records]
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    file_names = [path.relative_to(folder).as_posix() for path in paths]
    return _write_document(coco_document(split, file_names), directory, name, folder)


def _as_split(plan: Plan) -> DataSplit:
    """Return the images and objects that are kept, with the classes in the order in which the annotations name
    them."""
    annotations = plan.annotations
    class_names = tuple(dict.fromkeys(plan.names))
    label_of = {name: label for label, name in enumerate(class_names, 1)}
    labels = np.array([label_of[name] for name in plan.names], np.int64)[annotations.labels]
    boxes = annotations.boxes(plan.corners).astype(np.float32)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    chosen = np.flatnonzero(plan.keep_objects)
    chosen = chosen[np.argsort(annotations.owners[chosen], kind="stable")]
    bounds = np.searchsorted(annotations.owners[chosen], np.arange(len(annotations.paths) + 1))
    records = []
    for index in np.flatnonzero(plan.keep_images).tolist():
        objects = chosen[bounds[index] : bounds[index + 1]]
        height, width = plan.sizes[index].tolist()
        records.append(
            Record(
                image_path=annotations.paths[index],
                image_id=index + 1,
                size=(height, width),
                boxes=boxes[objects],
                labels=labels[objects],
                ignore=annotations.ignore[objects],
                crowd=annotations.crowd[objects],
                areas=areas[objects],
            )
        )
    return DataSplit(records, class_names, tuple(range(1, len(class_names) + 1)))


def _coco_object(item: dict[str, Any], plan: Plan, index: int, category_id: int) -> dict[str, Any]:
    area = item.get("area")
    if area is not None and (type(area) not in (int, float) or not abs(area) < 1e18):
        item = {key: value for key, value in item.items() if key != "area"}
    if item["category_id"] != category_id:
        item = {**item, "category_id": category_id}
    if not plan.changed[index]:
        return item
    x1, y1, x2, y2 = plan.corners[index].tolist()
    box = [round(value, DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)]
    box_area = box[2] * box[3]
    item = {**item, "bbox": box}
    if plan.scaled[index]:
        item.pop("segmentation", None)  # it is that of the other size
        item["area"] = box_area
    elif "area" in item and not 0 < item["area"] <= box_area:
        item["area"] = box_area
    return item


def _write_voc(plan: Plan, annotations: VocAnnotations, root: Path, done: set[Path]) -> VocSource:
    """Write annotations and lists of a source; `done` has the files that another list of its root has written."""
    old: VocSource = annotations.source
    link = root / "JPEGImages"
    if link not in done:
        root.mkdir(parents=True, exist_ok=True)
        if not _link(link, old.root / "JPEGImages"):
            raise DataError(f"{link}: links cannot be made here; give --fix a folder on another disk or system")
        done.add(link)
    order = np.argsort(annotations.owners, kind="stable")
    bounds = np.searchsorted(annotations.owners[order], np.arange(len(annotations.paths) + 1))
    kept: dict[str, list[str]] = {split: [] for split in old.splits}
    for index in np.flatnonzero(plan.keep_images).tolist():
        stem = str(annotations.image_ids[index])
        kept[annotations.lists[stem]].append(stem)
        path = root / "Annotations" / f"{stem}.xml"
        if path not in done:
            done.add(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_xml(annotations.files[index], path, plan, index, order[bounds[index] : bounds[index + 1]])
    for split, stems in kept.items():
        write_text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
    return VocSource(root, tuple(split for split, stems in kept.items() if stems))


def _write_xml(source: Path, path: Path, plan: Plan, image: int, objects: np.ndarray) -> None:
    """The annotation of one image, which has `objects`; byte by byte where nothing changes."""
    annotations = plan.annotations
    annotation = parse_annotation(source)
    is_changed = annotations.sizes[image].tolist() != plan.sizes[image].tolist()
    if is_changed:
        _set_size(annotation, *plan.sizes[image].tolist())
    by_position = {int(annotations.positions[index]): int(index) for index in objects if plan.keep_objects[index]}
    for position, item in enumerate(annotation.findall("object"), 1):
        index = by_position.get(position)
        if index is None:
            annotation.remove(item)
            is_changed = True
        else:
            is_changed |= _mend_object(item, plan, index, source)
    if is_changed:
        ET.ElementTree(annotation).write(path, encoding="utf-8", xml_declaration=True)
    else:
        shutil.copyfile(source, path)


def _set_size(annotation: ET.Element, height: int, width: int) -> None:
    depth = annotation.findtext("size/depth")
    for element in annotation.findall("size"):
        annotation.remove(element)
    size = ET.Element("size")
    for tag, text in (("width", str(width)), ("height", str(height)), ("depth", depth)):
        if text is not None:
            ET.SubElement(size, tag).text = text
    first_object = next((place for place, child in enumerate(annotation) if child.tag == "object"), len(annotation))
    annotation.insert(first_object, size)


def _mend_object(item: ET.Element, plan: Plan, index: int, source: Path) -> bool:
    """Correct an <object>; False where nothing had to be changed."""
    raw = parse_object(item, source)
    name, is_changed = raw.name, raw.is_unclear
    if raw.is_unclear:
        item.findall("difficult")[0].text = "0"
    wanted = plan.names[plan.annotations.labels[index]]
    if name != wanted:
        item.findall("name")[0].text = wanted
        is_changed = True
    if plan.changed[index]:
        for tag, value in zip(CORNERS, plan.corners[index].tolist(), strict=True):
            item.findall(f"bndbox/{tag}")[0].text = _number_text(value)
        is_changed = True
    return is_changed


def _number_text(value: float) -> str:
    value = round(value, DIGITS)
    return str(math.floor(value)) if value.is_integer() else repr(value)
