"""What lies at a path: which files are the training set and which the validation set."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from ssdlite.data.formats.coco import read_coco, require_annotations, require_folder
from ssdlite.data.formats.voc import read_list, read_voc
from ssdlite.data.records import number_classes, relabel
from ssdlite.errors import DataError
from ssdlite.structures import DataSplit, ImageId, Record

logger = logging.getLogger(__name__)


ROBOFLOW_FILE = "_annotations.coco.json"


@dataclass(frozen=True)
class CocoSource:
    """A folder of images and the COCO file that annotates them."""

    images: Path
    annotations: Path

    def __str__(self) -> str:
        return str(self.annotations)


@dataclass(frozen=True)
class VocSource:
    """A VOC root and the names of its lists in ImageSets/Main."""

    root: Path
    splits: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.root} ({' + '.join(self.splits)})"


Source: TypeAlias = CocoSource | VocSource


@dataclass(frozen=True)
class Layout:
    """The two splits at a path, and the sentence that tells the user so."""

    train: list[Source]  # empty where there is only something to evaluate on
    val: list[Source]
    description: str


def find_layout(path: str | Path) -> Layout:
    """Recognise COCO (as downloaded or as Roboflow exports it) or VOC at `path`. Raises `DataError` otherwise."""
    path = Path(path)
    try:
        return _find_layout(path)
    except OSError as error:  # of a folder that may not be looked into, or a name that is too long
        raise DataError(
            f"{path}: the folder cannot be looked through ({error.strerror}); check the path and its permissions"
        ) from error


def _find_layout(path: Path) -> Layout:
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder; check the path to the data set")
    for kind, find in (("COCO", _find_coco), ("Roboflow COCO", _find_roboflow), ("VOC", _find_voc)):
        train, val = find(path)
        if train or val:
            return Layout(train, val or train, _describe(kind, path, train, val))
    raise DataError(
        f"{path}: no data set was recognised; looked for annotations/instances_train*.json and "
        f"instances_val*.json (COCO), train/{ROBOFLOW_FILE} (Roboflow), and Annotations, JPEGImages and "
        "ImageSets/Main here, in VOC20* or in VOCdevkit/VOC20* (VOC); lay the files out in one of these ways"
    )


def require_files(sources: Sequence[Source]) -> None:
    """Raise DataError, as reading them would, where images, annotations or a list are not there."""
    for source in sources:
        if isinstance(source, CocoSource):
            require_folder(source.images)
            require_annotations(source.annotations)
        else:
            require_folder(source.root / "JPEGImages")
            for split in source.splits:
                read_list(source.root, split)


def read_split(
    sources: Sequence[Source], class_names: Sequence[str] | None = None, *, ignore_unknown: bool = False
) -> DataSplit:
    """Read `sources` and join them into one split.

    Without `class_names` the classes are the union of all names: COCO's in the order of their ids, then
    those that only VOC has, sorted. The validation set must be read with the names of the training set, so
    that a class which it lacks shifts no label. Objects of other names are an error, or left out with
    `ignore_unknown`. A class keeps the category id of the first COCO source that has it. Image ids that
    clash become "<position of the source>/<id>".

    Raises `DataError` as the readers do, and where there are no sources.
    """
    if not sources:
        raise DataError("the data set has no images for this split; add the split, or name another data set")
    parts = [_read(source) for source in sources]
    known: dict[str, int] = {}
    voc_names: set[str] = set()
    for source, part in zip(sources, parts, strict=True):
        if isinstance(source, VocSource):
            voc_names.update(part.class_names)
            continue
        for name, category_id in zip(part.class_names, part.category_ids, strict=True):
            known.setdefault(name, category_id)
    if class_names is None:
        class_names = [*known, *sorted(voc_names - known.keys())]
    records: list[Record] = []
    taken: set[ImageId] = set()
    for position, (source, part) in enumerate(zip(sources, parts, strict=True), 1):
        origin = source.annotations if isinstance(source, CocoSource) else source.root
        known_part = relabel(part, class_names, origin, ignore_unknown=ignore_unknown)
        fresh = _rename_clashes(known_part.records, taken, position, origin)
        taken.update(record.image_id for record in fresh)
        records += fresh
    return DataSplit(records, tuple(class_names), number_classes(class_names, known))


def _read(source: Source) -> DataSplit:
    if isinstance(source, CocoSource):
        return read_coco(source.images, source.annotations)
    return read_voc(source.root, source.splits)


def _rename_clashes(records: list[Record], taken: set[ImageId], position: int, origin: Path) -> list[Record]:
    clashes = [record.image_id for record in records if record.image_id in taken]
    if not clashes:
        return records
    logger.warning(
        "%s: %d image ids are also those of an earlier source, the first is %s; renamed to '%d/%s' and so on",
        *(origin, len(clashes), clashes[0], position, clashes[0]),
    )
    return [
        replace(record, image_id=f"{position}/{record.image_id}") if record.image_id in taken else record
        for record in records
    ]


def _find_coco(path: Path) -> tuple[list[Source], list[Source]]:
    train, val = (_coco_split(path, name) for name in ("train", "val"))
    return train, val


def _coco_split(path: Path, name: str) -> list[Source]:
    found = sorted((path / "annotations").glob(f"instances_{name}*.json"))
    if not found:
        return []
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(f"{path / 'annotations'}: several files could be the {name} set ({names}); leave only one")
    full_name = found[0].stem.removeprefix("instances_")  # such as train2017
    folders = [path / full_name, path / "images" / full_name, path / name, path / "images" / name, path / "images"]
    images = next((folder for folder in folders if folder.is_dir()), None)
    if images is None:
        tried = ", ".join(str(folder) for folder in dict.fromkeys(folders))
        raise DataError(f"{found[0]}: its images were not found; put them into one of {tried}")
    return [CocoSource(images, found[0])]


def _find_roboflow(path: Path) -> tuple[list[Source], list[Source]]:
    folders = [path / name for name in ("train", "valid", "test") if (path / name / ROBOFLOW_FILE).is_file()]
    train = [CocoSource(folder, folder / ROBOFLOW_FILE) for folder in folders if folder.name == "train"]
    rest = [CocoSource(folder, folder / ROBOFLOW_FILE) for folder in folders if folder.name != "train"]
    return [*train], [*rest[:1]]


def _find_voc(path: Path) -> tuple[list[Source], list[Source]]:
    """With a test list somewhere, train on trainval and validate on test; otherwise train and val."""
    candidates = [path, *sorted(path.glob("VOC20*")), *sorted(path.glob("VOCdevkit/VOC20*"))]
    lists = {root: _voc_lists(root) for root in candidates if _voc_lists(root)}
    has_test = any("test" in names for names in lists.values())
    train: list[Source] = []
    val: list[Source] = []
    for root, names in lists.items():
        development = ("trainval",) if "trainval" in names else tuple(sorted(names & {"train", "val"}))
        if has_test:
            train_lists, val_lists = development, ("test",) if "test" in names else ()
        elif {"train", "val"} <= names:
            train_lists, val_lists = ("train",), ("val",)
        else:  # a lone list, whatever its name: CVAT writes default.txt
            train_lists, val_lists = development or (tuple(names) if len(names) == 1 else ()), ()
        train += [VocSource(root, train_lists)] if train_lists else []
        val += [VocSource(root, val_lists)] if val_lists else []
    return train, val


def _voc_lists(root: Path) -> set[str]:
    """The names of the lists in ImageSets/Main, without those of a single class (such as cat_train)."""
    if not (root / "Annotations").is_dir():
        return set()
    names = {file.stem for file in (root / "ImageSets" / "Main").glob("*.txt")}
    return {name for name in names if not re.search(r"_(train|val|trainval|test)$", name)}


def _describe(kind: str, path: Path, train: Sequence[Source], val: Sequence[Source]) -> str:
    train_part, val_part = (" and ".join(map(str, sources)) for sources in (train, val))
    if not train:
        return f"{kind} data at {path}: validation {val_part}; there is no training set"
    if not val:
        return (
            f"{kind} data at {path}: training {train_part}; there is no validation set, so it is validated on the "
            "training images and the numbers will flatter the model"
        )
    return f"{kind} data at {path}: training {train_part}; validation {val_part}"
