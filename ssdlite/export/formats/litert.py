"""LiteRT (TensorFlow Lite): NAME.tflite, for Android and many boards. One image at a time.

The file takes (1, H, W, 3) float32, RGB pixels 0..255, the order of channels that this world is used to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssdlite.errors import CheckpointError
from ssdlite.export.formats.base import Runtime, load_package, suppress_output
from ssdlite.export.metadata import read_metadata
from ssdlite.io import one_line

if TYPE_CHECKING:
    from ssdlite.export.formats.conversion import Conversion


def convert(conversion: Conversion, path: Path) -> dict[str, str]:
    """Write `path`; returns the metadata."""
    with suppress_output("LiteRT's conversion"):
        litert_torch = load_package("litert_torch", "litert")
        model = litert_torch.convert(
            conversion.module(channels_last=True), (conversion.example(channels_last=True),)
        )
        model.export(str(path))
    return conversion.properties(channels_last=True)


class LiteRtSession:
    """A .tflite file, run on the CPU with XNNPACK."""

    batch_size: int | None = 1
    runs_in_threads = False

    def __init__(self, path: Path, threads: int | None = None) -> None:
        interpreter = load_package("ai_edge_litert.interpreter", "litert").Interpreter
        self.metadata = read_metadata(path)
        try:
            with suppress_output("LiteRT"):  # it announces XNNPACK
                self.interpreter = interpreter(model_path=str(path), num_threads=threads)
                self.interpreter.allocate_tensors()
        except CheckpointError as error:
            raise CheckpointError(f"{path} cannot be loaded by LiteRT: {one_line(str(error), 300)}") from None
        (self.input,) = (detail["index"] for detail in self.interpreter.get_input_details())
        # The order of the details is the converter's; the names end with the position.
        outputs = sorted(self.interpreter.get_output_details(), key=lambda detail: detail["name"])
        self.outputs = [detail["index"] for detail in outputs]

    def answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.interpreter.set_tensor(self.input, images)
        self.interpreter.invoke()
        answers = map(self.interpreter.get_tensor, self.outputs)
        return dict(zip(self.metadata.output_names, answers, strict=True))


LITERT = Runtime(
    name="litert",
    program="LiteRT",
    suffix=".tflite",
    heads=("decoded", "raw"),
    precisions=("fp32",),
    modules=("litert_torch", "ai_edge_litert"),
    distributions=("litert-torch", "ai-edge-litert"),
    convert=convert,
    open=LiteRtSession,
)
