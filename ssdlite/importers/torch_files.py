"""Files of `torch.save` that hold another program's network: recognised by their keys, read by its name table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssdlite.errors import CheckpointError
from ssdlite.importers import torch_tables
from ssdlite.importers.names import ForeignNetwork, Naming, count_classes, name_table, require_shapes, take
from ssdlite.io import is_usable, load_tensors, one_line, quoted
from ssdlite.models.variants import DIALECTS

LONGEST_NAME = 200  # characters; those of known programs have up to 60


@dataclass(frozen=True)
class TorchFormat:
    """One program's files."""

    dialect: str
    name: Naming
    mark: str  # what only its keys begin with
    wrapper: str | None  # where in the file the state is; None: the file is the state
    input_size: tuple[int, int]  # (height, width), pixels; the file does not say
    decoding: dict[str, float] = field(default_factory=dict)
    move_background: Callable[[Mapping[str, Tensor], int, int], dict[str, Tensor]] | None = None


FORMATS = {
    form.dialect: form
    for form in (
        TorchFormat(
            "pytorch-ssd",
            torch_tables.pytorch_ssd_name,
            mark="base_net.",
            wrapper=None,
            input_size=(300, 300),
            decoding={
                "score_threshold": 0.01,
                "iou_threshold": 0.45,
                "candidates_per_class": 200,
                "max_detections": 1000,
            },
        ),
        TorchFormat(
            "lufficc",
            torch_tables.lufficc_name,
            mark="box_head.predictor.",
            wrapper="model",
            input_size=(320, 320),
            decoding={
                "score_threshold": 0.01,
                "iou_threshold": 0.45,
                "candidates_per_class": 10_000,
                "max_detections": 100,
            },
        ),
        TorchFormat(
            "mmdetection",
            torch_tables.mmdetection_name,
            mark="bbox_head.",
            wrapper="state_dict",
            input_size=(320, 320),
            decoding={
                "score_threshold": 0.02,
                "iou_threshold": 0.45,
                "candidates_per_class": 1000,
                "max_detections": 200,
            },
            move_background=torch_tables.move_background,
        ),
    )
}


def read_torch_file(path: Path, file_format: str | None) -> ForeignNetwork:
    """Read `path` as `file_format`, or as what its keys say.

    Raises CheckpointError for a file that cannot be read without running code from it, for one of no known program,
    and as `names.take`.
    """
    content = _load(path)
    state = _state(content, path)
    form = FORMATS[file_format] if file_format else _recognise(state, path)
    dialect = DIALECTS[form.dialect]
    weights = take(name_table(dialect, form.name), state, str(path), form.dialect)
    num_classes = count_classes(weights, dialect, str(path))
    require_shapes(weights, dialect, num_classes, str(path))
    if form.move_background:
        weights = form.move_background(weights, num_classes, 1)
    class_names = _class_names(content, num_classes)
    return ForeignNetwork(dialect, weights, num_classes, form.input_size, form.decoding, class_names)


def to_torch_file(weights: Mapping[str, Tensor], dialect: str, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The content of a file that the program of `dialect` reads, from the state of our Detector."""
    form = FORMATS[dialect]
    if form.move_background:
        weights = form.move_background(weights, len(class_names), -1)
    table = name_table(DIALECTS[dialect], form.name)
    state = {theirs: weights[ours].clone() for ours, theirs in table.items()}
    if form.wrapper is None:
        return state
    return {form.wrapper: state, "meta": {"CLASSES": class_names}}


def _load(path: Path) -> Any:
    try:
        return load_tensors(path)
    except PermissionError:
        raise CheckpointError(f"{path} may not be read; change its permissions.") from None
    except Exception as error:  # a damaged pickle can raise any
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path} is not read, because it holds more than tensors ({one_line(found[1])}), which could run "
                "code; save the network's state_dict alone in the program that it comes from."
            ) from None
        raise CheckpointError(
            f"{path} cannot be read: it is damaged, or was not written by torch.save; a frozen TensorFlow graph "
            "needs the suffix .pb or --format tensorflow."
        ) from None


def _state(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a file, out of their wrapper and without the prefix of DataParallel."""
    if isinstance(content, Mapping) and {"schema", "classes", "weights"} <= content.keys():
        raise CheckpointError(f"{path} is a checkpoint of ssdlite already; use it as it is.")
    for form in FORMATS.values():
        if isinstance(content, Mapping) and form.wrapper in content:
            content = content[form.wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state_dict.")
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} holds no plain state_dict: {_first_other(content)} is no tensor; "
            "save the network's state_dict alone."
        )
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    for name, tensor in state.items():
        if len(name) > LONGEST_NAME or not is_usable(name):
            raise CheckpointError(f"{path} is damaged: it has a tensor of the name {quoted(name)}.")
        if not _is_whole(tensor):
            raise CheckpointError(f"{path} is damaged: it does not hold the numbers of {quoted(name)}.")
    return state


def _is_whole(tensor: Tensor) -> bool:
    """Return whether each number is in the file: another layout, or a stride of 0, can claim any size."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _first_other(content: Mapping[Any, Any]) -> str:
    return next(one_line(str(key)) for key, value in content.items() if not isinstance(value, Tensor))


def _recognise(state: Mapping[str, Tensor], path: Path) -> TorchFormat:
    for form in FORMATS.values():
        if any(key.startswith(form.mark) for key in state):
            return form
    raise CheckpointError(
        f"{path} is of no known program (its first tensor is {next(iter(state))}); known are "
        f"{', '.join(FORMATS)} and tensorflow."
    )


def _class_names(content: Any, num_classes: int) -> tuple[str, ...] | None:
    """mmdetection notes the names in `meta`, under one of two keys; so do we when we write for lufficc."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    dataset = meta.get("dataset_meta")
    names = meta.get("CLASSES") or (dataset.get("classes") if isinstance(dataset, Mapping) else None)
    if not isinstance(names, list | tuple) or len(names) != num_classes or len(set(names)) != num_classes:
        return None
    return tuple(map(str, names))
