"""ncnn: NAME.param with NAME.bin, for phones and small boards. Written by pnnx from ONNX; one image at a time.

The file gives logits and deltas as `out0` (P, C) and `out1` (P, 4) for `in0` (3, H, W); the priors are in the JSON
file beside it.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssdlite.errors import CheckpointError
from ssdlite.export.formats.base import Runtime, load_package
from ssdlite.export.metadata import read_metadata
from ssdlite.io import one_line

if TYPE_CHECKING:
    from ssdlite.export.formats.conversion import Conversion


INPUT, OUTPUTS = "in0", ("out0", "out1")  # the names that pnnx gives


def convert(conversion: Conversion, path: Path) -> dict[str, str]:
    """Write `path` and its .bin; returns the metadata."""
    pnnx = load_package("pnnx", "ncnn")
    model = conversion.onnx(batch=1)
    height, width = conversion.detector.input_size
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        command = [
            *(pnnx.EXEC_PATH, "model.onnx", f"inputshape=[1,3,{height},{width}]"),
            f"fp16={int(conversion.precision == 'fp16')}",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        written = folder / "model.ncnn.param", folder / "model.ncnn.bin"
        if done.returncode or not all(file.is_file() for file in written):
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["nothing"]
            raise CheckpointError(f"pnnx failed (exit code {done.returncode}): {one_line(said[-1], 300)}")
        for file, target in zip(written, (path, path.with_suffix(".bin")), strict=True):
            shutil.copyfile(file, target)
    return conversion.properties()


class NcnnSession:
    """A .param file with the .bin beside it, run on the CPU in float32."""

    batch_size: int | None = 1
    runs_in_threads = False

    def __init__(self, path: Path, threads: int | None = None) -> None:
        ncnn = load_package("ncnn", "ncnn")
        self.metadata = read_metadata(path)
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise CheckpointError(f"{path} needs {weights.name} beside it, which holds its weights; copy that too.")
        self._mat = ncnn.Mat
        self.network = ncnn.Net()
        options = self.network.opt
        options.use_vulkan_compute = False
        # ARM processors would compute in float16: faster, but not what was verified.
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        if threads is not None:
            options.num_threads = threads
        if self.network.load_param(str(path)) or self.network.load_model(str(weights)):
            raise CheckpointError(f"{path} cannot be loaded by ncnn; export the checkpoint again.")

    def answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        image = images[0]  # a name of its own: ncnn.Mat reads this memory and does not keep it alive
        extractor = self.network.create_extractor()
        extractor.input(INPUT, self._mat(image))
        answers = (np.array(extractor.extract(name)[1])[None] for name in OUTPUTS)
        return dict(zip(self.metadata.output_names, answers, strict=True))


NCNN = Runtime(
    name="ncnn",
    program="ncnn",
    suffix=".param",
    file_suffix=".ncnn.param",
    # Decoding takes operators that pnnx leaves as they are; ncnn's own examples decode in C++ as well.
    heads=("raw",),
    precisions=("fp32", "fp16"),
    modules=("ncnn", "pnnx"),
    distributions=("ncnn", "pnnx", "onnx"),
    convert=convert,
    open=NcnnSession,
)
