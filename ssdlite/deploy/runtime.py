"""Predicting with an exported file: numpy and onnxruntime, guided by the file's metadata alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ssdlite.deploy.card import ModelCard, from_properties
from ssdlite.deploy.metadata import LAYOUTS
from ssdlite.deploy.postprocess import class_scores, decode_boxes, join_levels, select_detections
from ssdlite.errors import CheckpointError
from ssdlite.structures import Batch, Detections

ERRORS_ONLY = 3  # onnxruntime's severity
TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}  # onnxruntime's words

EXACT_INT8 = "session.x64quantprecision"
"""Processors with AVX2 but without VNNI add two products of 8 bits in 16 bits, which can overflow: a pedestrian
network of 8 bit weights had an AP of .113 that way, and .188 without. With this option onnxruntime computes there
as it does elsewhere, in 1.4 times the time."""


class OnnxPredictor:
    """Batch -> the Detections of each image, in pixels of the original images. Runs on the CPU.

    Args:
        path: a file of `export_onnx`, with any head.
        threads: of one operator; None leaves it to onnxruntime (one a physical core).
        exact_int8: no overflow in files of 8 bits, see `EXACT_INT8`; nothing else is changed by it.

    Raises CheckpointError for a file that is missing, broken or not ours.
    """

    def __init__(self, path: Path | str, threads: int | None = None, *, exact_int8: bool = True) -> None:
        self.session = _open(Path(path), threads, exact_int8)
        self.card: ModelCard = from_properties(self.session.get_modelmeta().custom_metadata_map, source=str(path))
        _require_fit(self.session, self.card, path)
        self.batch_size: int | None = _fixed_batch(self.session)
        """Images of one run, None if any number will do."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """`class_names[label - 1]` for the labels of Detections."""
        return self.card.class_names

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.card.input_size

    @property
    def metadata(self) -> dict[str, Any]:
        return self.card.document

    @property
    def config(self) -> dict[str, Any]:
        """The options that the network was trained with."""
        return self.card.document["config"]

    def __call__(self, batch: Batch) -> list[Detections]:
        outputs = self.run(np.asarray(batch.images))
        height, width = self.input_size
        scales = [(w / width, h / height, w / width, h / height) for h, w in batch.original_sizes]
        return [
            found._replace(boxes=found.boxes * np.array(scale, np.float32))
            for found, scale in zip(self.select(outputs), scales, strict=True)
        ]

    def run(
        self, images: np.ndarray, batch_size: int | None = None, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs of the file by name, for (N, 3, H, W) RGB pixels 0..255 of any type; N may be 0.

        `names` are those that its head has if None. Runs `batch_size` images at a time: by default as many as the
        file is fixed to, or all.
        """
        assert images.shape[1:] == (3, *self.input_size), f"{images.shape} is not (N, 3, *{self.input_size})"
        assert self.batch_size in (None, batch_size) or batch_size is None
        size = batch_size or self.batch_size or max(1, len(images))
        names = names or self.card.output_names
        runs = [
            self.session.run(names, {"images": self._feed(images[start : start + size], size)})
            for start in range(0, max(1, len(images)), size)  # at least one run, for the shapes
        ]
        outputs = (np.concatenate(parts)[: len(images)] for parts in zip(*runs, strict=True))
        return dict(zip(names, outputs, strict=True))

    def select(self, outputs: dict[str, np.ndarray]) -> Iterator[Detections]:
        """Outputs of `run` -> the detections of each image, in input pixels."""
        card = self.card
        rows = zip(*(outputs[name] for name in card.output_names), strict=True)
        if card.head == "nms":
            for boxes, scores, labels, count in rows:
                yield Detections(boxes[:count], scores[:count], labels[:count] + 1)
            return
        if card.is_raw:
            assert card.priors is not None and card.variances is not None and card.score_activation is not None
            logits, deltas = self.join(outputs)
            decoded = decode_boxes(deltas, card.priors, card.variances, card.input_size)
            rows = zip(decoded, class_scores(logits, card.score_activation), strict=True)
        for boxes, scores in rows:
            yield select_detections(boxes, scores, card.selection, card.input_size)

    def join(self, outputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of a raw head -> logits (N, P, C) and deltas (N, P, 4)."""
        if self.card.head == "raw":
            return outputs["logits"], outputs["deltas"]
        maps = [outputs[name] for name in self.card.output_names]
        count = len(self.card.levels)
        return join_levels(maps[:count], len(self.class_names) + 1), join_levels(maps[count:], 4)

    def _feed(self, images: np.ndarray, size: int) -> np.ndarray:
        """(n, 3, H, W) as the file takes them: with black images up to `size` where it asks for that many."""
        missing = size - len(images) if self.batch_size is not None or not len(images) else 0
        images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        layout, dtype = LAYOUTS[self.card.input_form]
        if layout == "NHWC":
            images = images.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images, dtype)


def _open(path: Path, threads: int | None, exact_int8: bool) -> onnxruntime.InferenceSession:
    try:
        if not path.is_file():  # a folder or a pipe is none either
            raise CheckpointError(f"there is no model file {path}.")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry(EXACT_INT8, "1" if exact_int8 else "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for node in (*session.get_inputs(), *session.get_outputs()):
            _ = node.name, node.shape  # raises here if it is no text, and so does the next
        _ = session.get_modelmeta().custom_metadata_map
        return session
    except Exception as error:  # its exceptions have no common base
        reason = "".join(filter(str.isprintable, " ".join(str(error).split())))[-200:]
        raise CheckpointError(f"{path} cannot be loaded by onnxruntime: {reason}") from None


def _require_fit(session: onnxruntime.InferenceSession, card: ModelCard, path: Path | str) -> None:
    """Raises CheckpointError if the network is not what its metadata says: someone changed one of the two."""
    inputs, outputs = session.get_inputs(), {output.name for output in session.get_outputs()}
    is_ours = len(inputs) == 1 and inputs[0].name == "images" and outputs.issuperset(card.output_names)
    shape = inputs[0].shape if is_ours else []
    layout, dtype = LAYOUTS[card.input_form]
    sides = [side for side, axis in zip(shape, layout, strict=False) if axis in "HW"]
    fits = all(
        not isinstance(side, int) or side == known for side, known in zip(sides, card.input_size, strict=False)
    )
    if len(shape) != 4 or not fits or inputs[0].type != TYPES[dtype]:
        raise CheckpointError(
            f"{path} has damaged metadata: its network is not one of head '{card.head}' for "
            f"{card.input_size[1]}x{card.input_size[0]} pixels of {dtype}; export the checkpoint again."
        )


def _fixed_batch(session: onnxruntime.InferenceSession) -> int | None:
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) else None
