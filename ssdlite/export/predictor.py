"""Predicting with an exported file of any format; without PyTorch, where its runtime needs none."""

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
    """A file that a runtime has loaded, ready to run on the CPU."""

    metadata: FileMetadata
    batch_size: int | None  # images of one run; None if any number will do
    runs_in_threads: bool  # whether several threads may call `answer` at once

    def answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run (B, 3, H, W) or (B, H, W, 3) RGB pixels 0..255, as `metadata.input_form` says.

        Returns the outputs of the file by name, one row an image.
        """


class FilePredictor:
    """Batch -> the Detections of each image, in pixels of the original images.

    Several threads may call it; they take turns where the runtime asks for that. Raises CheckpointError where a
    file finds a class that it does not name.
    """

    def __init__(self, session: InferenceSession) -> None:
        self.session = session
        self.metadata = session.metadata
        self.batch_size = session.batch_size
        """Images of one run, None if any number will do."""
        self._turn = contextlib.nullcontext() if session.runs_in_threads else threading.Lock()

    @property
    def class_names(self) -> tuple[str, ...]:
        """`class_names[label - 1]` for the labels of Detections."""
        return self.metadata.class_names

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.metadata.input_size

    @property
    def config(self) -> dict[str, Any]:
        """The options that the network was trained with."""
        return self.metadata.document["config"]

    def __call__(self, batch: Batch) -> list[Detections]:
        outputs = self.run(np.asarray(batch.images))
        if self.metadata.head == "nms" and outputs["detection_labels"].max(initial=-1) >= len(self.class_names):
            raise CheckpointError(
                f"the model names {len(self.class_names)} classes and finds more: its metadata is damaged; export "
                "the checkpoint again."
            )
        height, width = self.input_size
        scales = [(w / width, h / height, w / width, h / height) for h, w in batch.original_sizes]
        return [
            found._replace(boxes=found.boxes * np.array(scale, np.float32))
            for found, scale in zip(self.select(outputs), scales, strict=True)
        ]

    def run(self, images: np.ndarray, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """Outputs of the file by name, for (N, 3, H, W) RGB pixels 0..255 of any type; N may be 0.

        Runs `batch_size` images at a time: by default as many as the file is fixed to, or all.
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
        """Outputs of `run` -> the detections of each image, in input pixels."""
        if self.metadata.head == "nms":
            rows = zip(*(outputs[name] for name in self.metadata.output_names), strict=True)
            for boxes, scores, labels, count in rows:
                yield Detections(boxes[:count], scores[:count], labels[:count] + 1)
            return
        for boxes, scores in zip(*self.decode(outputs), strict=True):
            yield select(boxes, scores, self.metadata.selection, self.input_size)

    def decode(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of `run`, before suppression -> boxes (N, P, 4), input pixels, not clipped; scores (N, P, K)."""
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
        """Outputs of a raw head -> logits (N, P, C) and deltas (N, P, 4)."""
        if self.metadata.head == "raw":
            return outputs["logits"], outputs["deltas"]
        maps = [outputs[name] for name in self.metadata.output_names]
        count = len(self.metadata.levels)
        return join_levels(maps[:count], len(self.class_names) + 1), join_levels(maps[count:], 4)

    def _answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with self._turn:
            return self.session.answer(images)

    def _feed(self, images: np.ndarray, size: int) -> np.ndarray:
        """(n, 3, H, W) as the file takes them: with black images up to `size` where it asks for that many."""
        missing = size - len(images) if self.batch_size is not None or not len(images) else 0
        images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        layout, dtype = LAYOUTS[self.metadata.input_form]
        if layout == "NHWC":
            images = images.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images, dtype)


def select(boxes: np.ndarray, scores: np.ndarray, selection: Selection, input_size: tuple[int, int]) -> Detections:
    """(P, 4) and (P, K) of one image -> its detections, clipped to the `input_size` (height, width) of `boxes`."""
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
