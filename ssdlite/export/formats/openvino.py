"""OpenVINO's IR: NAME.xml with NAME.bin, for Intel's processors. Written from ONNX; any number of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdlite.errors import CheckpointError
from ssdlite.export.formats.base import Runtime, load_package, suppress_output
from ssdlite.export.metadata import PROPERTIES, from_properties
from ssdlite.io import one_line

if TYPE_CHECKING:
    from ssdlite.export.formats.conversion import Conversion


INFO = "ssdlite"  # the section of the file's rt_info that holds them


def convert(conversion: Conversion, path: Path) -> dict[str, str]:
    """Write `path` and its .bin; returns the metadata, which is in `path` as well."""
    openvino = load_package("openvino", "openvino")
    onnx_model = conversion.onnx()
    properties = conversion.properties()
    del onnx_model.metadata_props[:]  # or they would be there twice
    with suppress_output("OpenVINO's conversion"):
        model = openvino.Core().read_model(model=onnx_model.SerializeToString())
        for name, text in properties.items():
            model.set_rt_info(text, [INFO, name])
        openvino.save_model(model, path, compress_to_fp16=conversion.precision == "fp16")
    return properties


class OpenVinoSession:
    """A .xml file, run on the CPU in float32.

    Where a processor has bfloat16 or float16, OpenVINO would compute in those: twice as fast, with logits that are
    off by .5. A file computes what was verified only in float32. `precision=None` leaves it to OpenVINO.
    """

    batch_size: int | None = None
    runs_in_threads = False

    def __init__(self, path: Path, threads: int | None = None, precision: str | None = "f32") -> None:
        openvino = load_package("openvino", "openvino")
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if precision is not None:
            options["INFERENCE_PRECISION_HINT"] = precision
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            model = core.read_model(path)
            properties = {
                name: str(model.get_rt_info([INFO, name]).value)
                for name in PROPERTIES
                if model.has_rt_info([INFO, name])
            }
            self.metadata = from_properties(properties, source=str(path))
            self.model = core.compile_model(model, "CPU", options)
            self.outputs = {name: self.model.output(name) for name in self.metadata.output_names}
        except RuntimeError as error:
            raise CheckpointError(f"{path} cannot be loaded by OpenVINO: {one_line(str(error), 300)}") from None

    def answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        found = self.model(images)
        return {name: np.array(found[output]) for name, output in self.outputs.items()}


def computes_in_half() -> bool:
    """Return whether OpenVINO would compute in bfloat16 or float16 on this processor if nothing said otherwise."""
    able = load_package("openvino", "openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return bool({"BF16", "FP16"} & set(able))


OPENVINO = Runtime(
    name="openvino",
    program="OpenVINO",
    suffix=".xml",
    heads=("decoded", "raw"),
    precisions=("fp32", "fp16"),
    modules=("openvino",),
    distributions=("openvino", "onnx"),
    convert=convert,
    open=OpenVinoSession,
)
