"""What the classes of a foreign checkpoint are called, which most files do not say."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

from ssdlite.data.records import COCO_CATEGORIES
from ssdlite.errors import ConfigError

logger = logging.getLogger(__name__)

NUM_COCO_IDS = max(COCO_CATEGORIES)
BACKGROUND = ("background", "__background__")
LABEL_MAP_ITEM = re.compile(r"item\s*\{(.*?)\}", re.DOTALL)
LABEL_MAP_ID = re.compile(r"\bid:\s*(\d+)")
LABEL_MAP_NAMES = tuple(re.compile(rf"""\b{key}:\s*(["'])(.*?)\1""") for key in ("display_name", "name"))


def read_class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """Names in the order of the labels: a line each, or TensorFlow's label map (.pbtxt).

    A first line BACKGROUND, as pytorch-ssd writes it, is no class. Ids that a label map leaves out are called
    'unused 12'. Raises ConfigError if there are not `num_classes` different names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # an editor's mark would make BACKGROUND a class
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"cannot read the class names in {path}.") from None
    names = _read_label_map(text, num_classes, path) if path.suffix == ".pbtxt" else _read_lines(text)
    if len(names) != num_classes:
        raise ConfigError(f"{path} names {len(names)} classes, but the network has {num_classes}.")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{path} names '{repeated[0]}' twice.")
    return tuple(names)


def guess_class_names(num_classes: int) -> tuple[str, ...]:
    """The names of the data set that has as many classes, or numbers; either way the user is told."""
    voc = LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:]
    known = {
        len(voc): ("VOC's", voc),
        len(COCO_CATEGORIES): ("COCO's", [*COCO_CATEGORIES.values()]),
        NUM_COCO_IDS: ("COCO's by id", [COCO_CATEGORIES.get(i, f"unused {i}") for i in range(1, NUM_COCO_IDS + 1)]),
    }
    if num_classes in known:
        origin, names = known[num_classes]
        logger.warning("the %d classes are taken for %s; --class-names FILE says otherwise.", num_classes, origin)
        return tuple(names)
    logger.warning("the classes have no names and are numbered; --class-names FILE gives them.")
    return tuple(f"class {label}" for label in range(1, num_classes + 1))


def _read_lines(text: str) -> list[str]:
    names = [line.strip() for line in text.splitlines() if line.strip()]
    return names[1:] if names and names[0].lower() in BACKGROUND else names


def _read_label_map(text: str, num_classes: int, path: Path) -> list[str]:
    names: dict[int, str] = {}
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    for item in LABEL_MAP_ITEM.findall(text):
        number = LABEL_MAP_ID.search(item)
        name = next(filter(None, (pattern.search(item) for pattern in LABEL_MAP_NAMES)), None)
        if not number or not name:
            raise ConfigError(f"{path} has an item without an id or a name.")
        if (label := int(number[1])) in names:
            raise ConfigError(f"{path} gives the id {label} to both '{names[label]}' and '{name[2]}'.")
        names[label] = name[2]
    if outside := [label for label in names if not 1 <= label <= num_classes]:
        raise ConfigError(f"{path} has the id {outside[0]}, but the network has {num_classes} classes.")
    return [names.get(label, f"unused {label}") for label in range(1, num_classes + 1)]
