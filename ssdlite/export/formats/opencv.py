"""OpenCV's DNN module with an .onnx file of head decoded or raw; it has no NonMaxSuppression before 5.0."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx

from ssdlite.errors import CheckpointError
from ssdlite.export.metadata import from_properties
from ssdlite.io import one_line


class OpenCvSession:
    """An .onnx file, run on the CPU. `threads` holds for all of OpenCV in this process.

    `engine` is one of OpenCV 5 (`cv2.dnn.ENGINE_CLASSIC`, `ENGINE_NEW`); None leaves it to OpenCV.
    """

    batch_size: int | None = None
    runs_in_threads = False

    def __init__(self, path: Path, threads: int | None = None, engine: int | None = None) -> None:
        properties = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        self.metadata = from_properties(properties, source=str(path))
        assert self.metadata.head in ("decoded", "raw"), "the answer is that of a head before suppression"
        if threads is not None:
            cv2.setNumThreads(threads)
        try:
            engines = () if engine is None else (engine,)
            self.network = cv2.dnn.readNetFromONNX(str(path), *engines)
        except cv2.error as error:
            raise CheckpointError(f"{path} cannot be loaded by OpenCV: {one_line(str(error), 300)}") from None

    def answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        names = self.metadata.output_names
        self.network.setInput(images, "images")
        return {name: np.array(output) for name, output in zip(names, self.network.forward(names), strict=True)}
