"""Name tables of foreign networks: how one is applied to their tensors, and where the names of the classes come
from.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

from ssdlite.data.records import COCO_CATEGORIES
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.models.detector import Detector
from ssdlite.models.layers import Layer, layers
from ssdlite.models.variants import Dialect

NUM_LISTED = 8  # names in a message; the rest is counted


CONV_TENSORS = ("weight", "bias")


NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Names:
    """The prefixes of a layer's convolution and norm in another format."""

    conv: str
    norm: str | None = None


@dataclass(frozen=True, eq=False)
class ForeignNetwork:
    """A checkpoint of another program, in our terms."""

    dialect: Dialect
    weights: dict[str, Tensor]  # the state of our Detector, but for its normalisation
    num_classes: int  # without background
    input_size: tuple[int, int]  # (height, width), pixels
    decoding: dict[str, float]  # eval options: how its own program chooses detections
    class_names: tuple[str, ...] | None = None  # where the file holds them


Naming: TypeAlias = Callable[[Layer], Names]


def name_table(dialect: Dialect, naming: Naming) -> dict[str, str]:
    """Our name -> theirs, of every tensor, for a format of PyTorch."""
    table: dict[str, str] = {}
    for layer in layers(dialect):
        names = naming(layer)
        for tensor in CONV_TENSORS[: 1 + layer.has_bias]:
            table[f"{layer.conv}.{tensor}"] = f"{names.conv}.{tensor}"
        if layer.norm is not None:
            for tensor in NORM_TENSORS:
                table[f"{layer.norm}.{tensor}"] = f"{names.norm}.{tensor}"
    return table


def take(
    table: Mapping[str, str], theirs: Mapping[str, Tensor], source: str, file_format: str
) -> dict[str, Tensor]:
    """Their tensors under our names. Raises CheckpointError if any is missing or left over.

    The one exception are BatchNorm's counters, which files older than PyTorch 0.4.1 lack and nothing reads.
    """
    optional = {name for name in table.values() if name.endswith("num_batches_tracked")}
    missing = [name for name in table.values() if name not in theirs and name not in optional]
    if missing:
        raise CheckpointError(
            f"{source} is not a whole {file_format} MobileNetV2-SSDLite: it lacks {_listed(missing)}; "
            "choose another --format if it is of another program."
        )
    left_over = sorted(theirs.keys() - set(table.values()))
    if left_over:
        raise CheckpointError(
            f"{source} holds more than a {file_format} MobileNetV2-SSDLite: nothing takes {_listed(left_over)}."
        )
    for name in theirs:
        if name not in optional and not _is_plain(theirs[name]):
            raise CheckpointError(f"{source} is damaged: {name} does not hold finite numbers.")
    return {ours: theirs[name] for ours, name in table.items() if name in theirs}


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.is_floating_point() and bool(tensor.isfinite().all())


def count_classes(weights: Mapping[str, Tensor], dialect: Dialect, source: str) -> int:
    """K, from the rows of the classifiers, (priors of a cell)·(K + 1), and from those of the boxes, that times 4.

    Raises CheckpointError if they are not the rows of the dialect's priors on every level.
    """
    columns = {"regression": 4}
    for layer in layers(dialect):
        if layer.norm is None:
            rows = weights[f"{layer.conv}.bias"].numel()
            priors = len(dialect.prior_levels[layer.index].shapes)
            # The first level tells; fewer than two columns could be no class beside the background.
            expected = priors * columns.setdefault(layer.part, max(2, rows // priors))
            if rows != expected:
                raise CheckpointError(
                    f"{source} has other priors than {dialect.name}: level {layer.index} of its {layer.part} heads "
                    f"has {rows} rows, not {expected}."
                )
    return columns["classification"] - 1


def require_shapes(weights: Mapping[str, Tensor], dialect: Dialect, num_classes: int, source: str) -> None:
    """Raise CheckpointError if a tensor, under our name and in our layout, is of another shape than ours."""
    expected = Detector(dialect, num_classes=num_classes, input_size=(300, 300)).state_dict()
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{source} is not of width 1, the only one that can be imported: {key} is "
                f"{tuple(tensor.shape)}, not {tuple(expected[key].shape)}."
            )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return ", ".join(names[:NUM_LISTED]) + more


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
