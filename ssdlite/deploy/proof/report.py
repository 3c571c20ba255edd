"""What is known about a file, as JSON beside it: NAME.onnx.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper

from ssdlite.deploy.onnx.operators import count_operators, count_weights, needs, obstacles
from ssdlite.deploy.proof.prove import Proof
from ssdlite.files import write_text


def report_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def failed_report_path(path: Path) -> Path:
    """For a file that was not written; a report of the last one that was may lie beside."""
    return path.with_name(f"{path.name}.failed.json")


def describe(data: bytes) -> dict[str, Any]:
    """What the bytes of a file of ours say: its form, its operators and who has them, and its metadata.

    The metadata is there because converters of other runtimes leave it out; for raw heads with the priors.
    """
    model = onnx.load_from_string(data)
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    priors = {"priors": properties["ssdlite.priors"]} if "ssdlite.priors" in properties else {}
    return {
        "bytes": len(data),
        "weights": count_weights(model),
        "opset": model.opset_import[0].version,
        "ir_version": model.ir_version,
        "inputs": {value.name: _form(value) for value in model.graph.input},
        "outputs": {value.name: _form(value) for value in model.graph.output},
        "operators": count_operators(model),
        "runtimes": obstacles(needs(model)),
        "names": properties["names"],
        "metadata": properties["ssdlite"],
        **priors,
    }


def write_report(path: Path, description: dict[str, Any], proof: Proof | None) -> None:
    """Write what `describe` gave, with the proof that the file was put to. Raises UserError."""
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    document = {"proof": proof and proof.to_dict(), "versions": versions, **description}
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _form(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Type and shape."""
    tensor = value.type.tensor_type
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return {"type": kind, "shape": [dim.dim_value or dim.dim_param for dim in tensor.shape.dim]}
