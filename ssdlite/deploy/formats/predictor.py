"""Predicting with a file of any format. Without PyTorch, where the runtime needs none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ssdlite.deploy.card import ModelCard
from ssdlite.deploy.metadata import OUTPUT_NAMES
from ssdlite.deploy.postprocess import class_scores, decode_boxes, select_detections
from ssdlite.structures import Batch, Detections


class Runtime(Protocol):
    """A file that another program has loaded."""

    card: ModelCard
    batch_size: int | None  # images of one run; None if any number will do

    def answer(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """(B, 3, H, W) float32, RGB pixels 0..255 -> the outputs of the head, in the order of OUTPUT_NAMES."""


class FilePredictor:
    """Batch -> the Detections of each image, in pixels of the original images."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.card = runtime.card
        self.batch_size = runtime.batch_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """`class_names[label - 1]` for the labels of Detections."""
        return self.card.class_names

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.card.input_size

    @property
    def config(self) -> dict[str, Any]:
        """The options that the network was trained with."""
        return self.card.document["config"]

    def __call__(self, batch: Batch) -> list[Detections]:
        answers = self.run(np.asarray(batch.images))
        height, width = self.input_size
        scales = [(w / width, h / height, w / width, h / height) for h, w in batch.original_sizes]
        return [
            found._replace(boxes=found.boxes * np.array(scale, np.float32))
            for found, scale in zip(self.select(answers), scales, strict=True)
        ]

    def run(self, images: np.ndarray, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """(N, 3, H, W) RGB pixels 0..255 of any type -> `boxes` (N, P, 4) and `scores` (N, P, K), as `decoded`.

        Boxes are in input pixels and not clipped. Runs `batch_size` images at a time: by default as many as the
        file is fixed to, or all. N may be 0.
        """
        return self.decoded(self.raw(images, batch_size))

    def raw(self, images: np.ndarray, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """The outputs of the file by name; see `run`."""
        assert images.shape[1:] == (3, *self.input_size), f"{images.shape} is not (N, 3, *{self.input_size})"
        assert self.batch_size in (None, batch_size) or batch_size is None
        count, size = len(images), batch_size or self.batch_size or max(1, len(images))
        if not count:  # one run, for the shapes
            images = np.zeros((1, *images.shape[1:]), np.float32)
        runs = [
            self.runtime.answer(np.ascontiguousarray(images[start : start + size], np.float32))
            for start in range(0, len(images), size)
        ]
        outputs = (np.concatenate(parts)[:count] for parts in zip(*runs, strict=True))
        return dict(zip(OUTPUT_NAMES[self.card.head], outputs, strict=True))

    def decoded(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of `raw` -> boxes and scores."""
        card = self.card
        if card.head != "raw":
            return outputs
        assert card.priors is not None and card.variances is not None and card.score_activation is not None
        return {
            "boxes": decode_boxes(outputs["deltas"], card.priors, card.variances, card.input_size),
            "scores": class_scores(outputs["logits"], card.score_activation),
        }

    def select(self, answers: dict[str, np.ndarray]) -> Iterator[Detections]:
        """Boxes and scores of `run` -> the detections of each image, in input pixels."""
        for boxes, scores in zip(answers["boxes"], answers["scores"], strict=True):
            yield select_detections(boxes, scores, self.card.selection, self.input_size)
