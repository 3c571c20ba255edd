"""ExecuTorch: NAME.pte, PyTorch's runtime for phones and boards, with XNNPACK's kernels. One image at a time."""

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
    import torch

    with suppress_output("ExecuTorch's conversion"):
        exir = load_package("executorch.exir", "executorch")
        xnnpack = load_package("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        program = torch.export.export(conversion.module(), (conversion.example(),))
        lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)
    return conversion.properties()


class ExecuTorchSession:
    """A .pte file, run on the CPU. `threads` holds for all files of the process."""

    batch_size: int | None = 1
    runs_in_threads = False

    def __init__(self, path: Path, threads: int | None = None) -> None:
        with suppress_output("ExecuTorch"):
            runtime = load_package("executorch.runtime", "executorch")
            bindings = load_package("executorch.extension.pybindings.portable_lib", "executorch")
        self.metadata = read_metadata(path)
        try:
            with suppress_output("ExecuTorch"):
                if threads is not None:
                    bindings._unsafe_reset_threadpool(threads)  # while nothing runs; there is no other way
                self.program = runtime.Runtime.get().load_program(path)
                self.method = self.program.load_method("forward")
        except CheckpointError as error:
            raise CheckpointError(f"{path} cannot be loaded by ExecuTorch: {one_line(str(error), 300)}") from None

    def answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        answers = map(np.array, self.method.execute([torch.from_numpy(images)]))
        return dict(zip(self.metadata.output_names, answers, strict=True))


EXECUTORCH = Runtime(
    name="executorch",
    program="ExecuTorch",
    suffix=".pte",
    heads=("decoded", "raw"),
    precisions=("fp32",),
    modules=("executorch",),
    distributions=("executorch",),
    convert=convert,
    open=ExecuTorchSession,
)
