"""The JSON file beside an exported one: what it is, as in the metadata of ONNX, and how it was proved.

format        openvino, ncnn, ...
files         bytes of each file that belongs to it
versions      of the programs that wrote and checked it
proof         see `deploy.proof.prove.Proof.to_dict`; null where nothing was compared
names, ssdlite, ssdlite.priors   as in `deploy.metadata`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdlite.deploy.card import ModelCard, from_properties
from ssdlite.deploy.metadata import PROPERTIES
from ssdlite.errors import CheckpointError
from ssdlite.files import one_line, read_json, write_text


def document_path(path: Path) -> Path:
    """Of the file at `path`: its name and .json."""
    return path.with_name(f"{path.name}.json")


def write_document(path: Path, facts: Mapping[str, Any], properties: Mapping[str, str]) -> None:
    """Write the document of the file at `path`, a line a key."""
    parts = {**facts, **{name: json.loads(text) for name, text in properties.items()}}
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in parts.items())
    write_text(document_path(path), "{\n" + ",\n".join(lines) + "\n}\n")


def read_card(path: Path) -> ModelCard:
    """What the document of the file at `path` says of it. Raises CheckpointError if there is no good one."""
    document = document_path(path)
    try:
        parts = read_json(document)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} needs {document.name} beside it, which names its classes and sizes; copy that too."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{document} cannot be read: {one_line(str(error))}.") from None
    if not isinstance(parts, dict):
        raise CheckpointError(f"{document} is no JSON object; export the checkpoint again.")
    properties = {name: json.dumps(value) for name, value in parts.items() if name in PROPERTIES}
    return from_properties(properties, source=str(document))
