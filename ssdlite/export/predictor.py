"""Prediction with an exported file of any format, without PyTorch unless its runtime needs it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from ssdlite.errors import CheckpointError
from ssdlite.export.metadata import LAYOUTS, FileMetadata, Selection
from ssdlite.export.runtime import class_scores, decode_boxes, join_levels, select_detections
from ssdlite.structures import Batch, Detections


class InferenceSession(Protocol):
    """Exported file that a runtime has loaded, ready to run on the CPU."""

    metadata: FileMetadata
    batch_size: int | None  # images per run; None if any number is accepted
    runs_in_threads: bool  # whether several threads may call `answer` at once

    def answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run RGB pixels 0..255, (B, 3, H, W) or (B, H, W, 3) depending on `metadata.input_form`.

        Return the outputs of the file by name, with one row per image.
        """


class FilePredictor:
    """Predictor for an exported file: Batch -> Detections of each image, in pixels of the original images.

    Several threads may call it; calls are serialised if the runtime needs that. Raises CheckpointError if the file
    detects a class that its metadata do not name.
    """

    def __init__(self, session: InferenceSession) -> None:
        self.session = session
        self.metadata = session.metadata
        self.batch_size = session.batch_size
        """Images per run; None if any number is accepted."""
        self._turn = contextlib.nullcontext() if session.runs_in_threads else threading.Lock()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; label l of Detections is `class_names[l - 1]`."""
        return self.metadata.class_names

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.metadata.input_size

    @property
    def config(self) -> dict[str, Any]:
        """Options that the network was trained with."""
        return self.metadata.document["config"]

    def __call__(self, batch: Batch) -> list[Detections]:
        """Return the detections of each image, in pixels of the original image. Raises CheckpointError."""
        outputs = self.run(np.asarray(batch.images))
        if self.metadata.head == "nms" and outputs["detection_labels"].max(initial=-1) >= len(self.class_names):
            raise CheckpointError(
                f"the model detects a class beyond the {len(self.class_names)} that its metadata name: they are "
                "damaged; export the checkpoint again."
            )
        height, width = self.input_size
        scales = [(w / width, h / height, w / width, h / height) for h, w in batch.original_sizes]
        return [
            found._replace(boxes=found.boxes * np.array(scale, np.float32))
            for found, scale in zip(self.select(outputs), scales, strict=True)
        ]

    def run(self, images: np.ndarray, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """Return the outputs of the file by name for (N, 3, H, W) RGB pixels 0..255 of any type; N may be 0.

        Runs `batch_size` images at a time: by default the size that the file is fixed to, or all.
        """
        assert images.shape[1:] == (3, *self.input_size), f"{images.shape} is not (N, 3, *{self.input_size})"
        assert self.batch_size in (None, batch_size) or batch_size is None
        size = batch_size or self.batch_size or max(1, len(images))
        runs = [
            self._answer(self._feed(images[start : start + size], size))
            for start in range(0, max(1, len(images)), size)  # at least one run, for the shapes
        ]
        return {name: np.concatenate([outputs[name] for outputs in runs])[: len(images)] for name in runs[0]}

    def select(self, outputs: Mapping[str, np.ndarray]) -> Iterator[Detections]:
        """Yield the detections of each image, in input pixels, from the outputs of `run`."""
        if self.metadata.head == "nms":
            rows = zip(*(outputs[name] for name in self.metadata.output_names), strict=True)
            for boxes, scores, labels, count in rows:
                yield Detections(boxes[:count], scores[:count], labels[:count] + 1)
            return
        for boxes, scores in zip(*self.decode(outputs), strict=True):
            yield select(boxes, scores, self.metadata.selection, self.input_size)

    def decode(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes (N, P, 4) in input pixels, not clipped, and scores (N, P, K) before suppression.

        `outputs` are those of `run`, of any head but 'nms'.
        """
        metadata = self.metadata
        if not metadata.is_raw:
            return outputs["boxes"], outputs["scores"]
        assert (
            metadata.priors is not None and metadata.variances is not None and metadata.score_activation is not None
        )
        logits, deltas = self.join(outputs)
        boxes = decode_boxes(deltas, metadata.priors, metadata.variances, metadata.input_size)
        return boxes, class_scores(logits, metadata.score_activation)

    def join(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return logits (N, P, C) and deltas (N, P, 4) from the outputs of a raw head."""
        if self.metadata.head == "raw":
            return outputs["logits"], outputs["deltas"]
        maps = [outputs[name] for name in self.metadata.output_names]
        count = len(self.metadata.levels)
        return join_levels(maps[:count], len(self.class_names) + 1), join_levels(maps[count:], 4)

    def _answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with self._turn:
            return self.session.answer(images)

    def _feed(self, images: np.ndarray, size: int) -> np.ndarray:
        """Return (n, 3, H, W) in the form of the file, padded with black images to a fixed batch `size`."""
        missing = size - len(images) if self.batch_size is not None or not len(images) else 0
        images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        layout, dtype = LAYOUTS[self.metadata.input_form]
        if layout == "NHWC":
            images = images.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images, dtype)


def select(boxes: np.ndarray, scores: np.ndarray, selection: Selection, input_size: tuple[int, int]) -> Detections:
    """Select the detections of one image from `boxes` (P, 4) and `scores` (P, K), and clip them to `input_size`.

    Boxes are in input pixels; `input_size` is (height, width).
    """
    found, found_scores, labels = select_detections(
        boxes,
        scores,
        input_size,
        score_threshold=selection.score_threshold,
        iou_threshold=selection.iou_threshold,
        candidates_per_class=selection.candidates_per_class,
        max_detections=selection.max_detections,
    )
    return Detections(found, found_scores, labels + 1)
