"""Inference with an .onnx file of any head and form in onnxruntime, configured by the file's metadata alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from ssdlite.errors import CheckpointError
from ssdlite.export.metadata import LAYOUTS, FileMetadata, from_properties
from ssdlite.export.predictor import FilePredictor
from ssdlite.export.runtime import EXACT_INT8, may_overflow

ERRORS_ONLY = 3  # onnxruntime's log severity for errors


TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}  # data type -> onnxruntime's name of it


class OnnxSession:
    """File written by `export_onnx`, run on the CPU.

    Args:
        threads: threads of one operator; None leaves the number to onnxruntime (one per physical core).
        exact_int8: avoid overflow in files of 8 bits, see `EXACT_INT8`. It has no effect on other files, nor on
            processors that cannot overflow.
        names: outputs to compute; None takes those of the file's head.

    Raises CheckpointError for a file that is missing, damaged, or was not exported by ssdlite.
    """

    runs_in_threads = True

    def __init__(
        self, path: Path, threads: int | None = None, *, exact_int8: bool = True, names: Sequence[str] | None = None
    ) -> None:
        self.session = _open(path, threads, exact_int8)
        self.metadata: FileMetadata = from_properties(
            self.session.get_modelmeta().custom_metadata_map, source=str(path)
        )
        _require_fit(self.session, self.metadata, path)
        self.batch_size = _fixed_batch(self.session)
        self.names = tuple(names or self.metadata.output_names)

    def answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name; see `InferenceSession`."""
        return dict(zip(self.names, self.session.run(self.names, {"images": images}), strict=True))


class OnnxPredictor(FilePredictor):
    """Predictor for the .onnx file at `path`: Batch -> Detections of each image; see `OnnxSession`."""

    def __init__(self, path: Path | str, threads: int | None = None, *, exact_int8: bool = True) -> None:
        super().__init__(OnnxSession(Path(path), threads, exact_int8=exact_int8))


def _open(path: Path, threads: int | None, exact_int8: bool) -> onnxruntime.InferenceSession:
    try:
        if not path.is_file():  # neither a folder nor a pipe is a model
            raise CheckpointError(f"there is no model file {path}.")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry(EXACT_INT8, "1" if exact_int8 and may_overflow() else "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for node in (*session.get_inputs(), *session.get_outputs()):
            _ = node.name, node.shape  # raises if the text is not UTF-8, as does the next line
        _ = session.get_modelmeta().custom_metadata_map
        return session
    except Exception as error:  # onnxruntime's exceptions have no common base
        reason = "".join(filter(str.isprintable, " ".join(str(error).split())))[-200:]
        raise CheckpointError(f"{path} cannot be loaded by onnxruntime: {reason}") from None


def _require_fit(session: onnxruntime.InferenceSession, metadata: FileMetadata, path: Path) -> None:
    """Raise CheckpointError if inputs or outputs of the network differ from its metadata."""
    inputs, outputs = session.get_inputs(), {output.name for output in session.get_outputs()}
    is_ours = len(inputs) == 1 and inputs[0].name == "images" and outputs.issuperset(metadata.output_names)
    shape = inputs[0].shape if is_ours else []
    layout, dtype = LAYOUTS[metadata.input_form]
    sides = [side for side, axis in zip(shape, layout, strict=False) if axis in "HW"]
    fits = all(
        not isinstance(side, int) or side == known for side, known in zip(sides, metadata.input_size, strict=False)
    )
    given = {output.name: output.shape for output in session.get_outputs()}
    fits = fits and all(
        _agree(given.get(name, ()), expected) for name, expected in _output_shapes(metadata).items()
    )
    if len(shape) != 4 or not fits or inputs[0].type != TYPES[dtype]:
        raise CheckpointError(
            f"{path} has damaged metadata: its network does not have head '{metadata.head}', an input of "
            f"{metadata.input_size[1]}x{metadata.input_size[0]} pixels of {dtype} and "
            f"{len(metadata.class_names)} classes; export the checkpoint again."
        )


def _output_shapes(metadata: FileMetadata) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of each output without the batch axis; None for a size that the metadata do not give."""
    num_classes = len(metadata.class_names)
    if metadata.head == "raw-levels":
        logits = {f"logits_{i}": (a * (num_classes + 1), h, w) for i, (h, w, a) in enumerate(metadata.levels)}
        deltas = {f"deltas_{i}": (a * 4, h, w) for i, (h, w, a) in enumerate(metadata.levels)}
        return {**logits, **deltas}
    if metadata.head == "raw" and metadata.priors is not None:
        return {"logits": (len(metadata.priors), num_classes + 1), "deltas": (len(metadata.priors), 4)}
    return {"scores": (None, num_classes)} if metadata.head == "decoded" else {}


def _agree(shape: Sequence[object], expected: tuple[int | None, ...]) -> bool:
    """Tell whether `shape` may be (B, *expected). A size that is text is open and agrees with any number."""
    return len(shape) == 1 + len(expected) and all(
        known is None or not isinstance(size, int) or size == known
        for size, known in zip(shape[1:], expected, strict=True)
    )


def _fixed_batch(session: onnxruntime.InferenceSession) -> int | None:
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) else None
