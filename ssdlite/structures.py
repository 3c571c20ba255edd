"""Data structures that flow between the folders, and the legend of tensor shapes.

Shape letters, used in docstrings and as suffixes of local names (`iou_BMP`):

    B  images of a batch          P  priors              M  objects of an image, padded
    C  logits of a prior          K  classes             N  objects of one image
    H, W  input height, width     D  detections of one image

`boxes` are always (x1, y1, x2, y2) in pixels; any other form is part of the name. Labels run from 1 to K;
0 is background or padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:  # exported files are run where there is no PyTorch
    import torch
    from torch import Tensor


ImageId: TypeAlias = int | str


ScoreActivation: TypeAlias = Literal["softmax", "sigmoid"]
"""Activation from logits to scores: over all columns of a prior, or each column by itself. The column for
background is there in both and gives no detection."""


ResizeAlignment: TypeAlias = Literal["half_pixel", "asymmetric"]
"""Rule for the pixel of the image that a pixel of the resized one is taken from, in the words of ONNX's Resize:
(dst + .5)·scale − .5, as everywhere today, or dst·scale, as in TensorFlow 1, which shifts the picture a little."""


@dataclass(frozen=True, eq=False)
class Record:
    """One annotated image as a reader found it. Nothing is decoded yet."""

    image_path: Path
    image_id: ImageId  # the data set's own
    size: tuple[int, int]  # (height, width) that the annotations refer to
    boxes: np.ndarray  # (N, 4) float32 xyxy, pixels of the original image
    labels: np.ndarray  # (N,) int64 in 1..K
    ignore: np.ndarray  # (N,) bool: crowd or difficult, neither to be learnt nor to be missed
    crowd: np.ndarray  # (N,) bool: those of `ignore` that cover many objects (COCO iscrowd)
    areas: np.ndarray  # (N,) float32, pixels²: the annotation's own area (COCO: of the mask)


@dataclass(frozen=True, eq=False)
class DataSplit:
    """The images of one split with the classes that their labels stand for."""

    records: list[Record]
    class_names: tuple[str, ...]  # class_names[label - 1]
    category_ids: tuple[int, ...]  # the data set's own number for class_names[i]

    def __len__(self) -> int:
        return len(self.records)


class Targets(NamedTuple):
    """The objects of one network input."""

    boxes: Tensor  # (N, 4) xyxy, input pixels
    labels: Tensor  # (N,) int64 in 1..K
    ignore: Tensor  # (N,) bool


class Batch(NamedTuple):
    """Images and padded targets, as they travel from the loader to the device.

    With `pending` rows the images are not made yet: `images` then holds the pixels that they are to be made of by
    `data.device.finish_images`, (S, 3) uint8 RGB, one part of an image after the other.

    Without PyTorch the tensors are arrays of the same types (`data.stream`, `prediction.finder`).
    """

    images: Tensor  # (B, 3, H, W) uint8 RGB
    boxes: Tensor  # (B, M, 4) float32 xyxy, input pixels; zeros as padding
    labels: Tensor  # (B, M) int64 in 1..K; 0 as padding
    ignore: Tensor  # (B, M) bool
    image_ids: list[ImageId]
    original_sizes: list[tuple[int, int]]  # (height, width) of each image before resizing
    indices: list[int]  # position of each image in its split
    pending: Tensor | None = None  # (B, R) float32: what is to be done to each image; None if nothing is
    problems: Sequence[str] = ()  # a sentence for each image that could not be read and has another in its place

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch with its tensors on `device`; to a CUDA GPU the copies are not waited for.

        Others may read memory after it was given back: https://github.com/pytorch/pytorch/issues/189690 (Metal).
        """
        is_cuda = str(device).startswith("cuda")
        return self._map(lambda tensor: tensor.to(device, non_blocking=is_cuda))

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory (called by the loader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move) -> Batch:  # type: ignore[no-untyped-def]
        return self._replace(
            images=move(self.images),
            boxes=move(self.boxes),
            labels=move(self.labels),
            ignore=move(self.ignore),
            pending=None if self.pending is None else move(self.pending),
        )


class HeadOutput(NamedTuple):
    """Output of a Detector, with the priors that it belongs to and the meaning of its logits."""

    logits: Tensor  # (B, P, C): a column for background, then one a class
    deltas: Tensor  # (B, P, 4): encoded boxes, see `boxes.encode`
    priors: Tensor  # (P, 4) cxcywh, input pixels
    score_activation: ScoreActivation = "softmax"
    level_sizes: tuple[int, ...] = ()  # how many of the priors each level has, in their order; () says nothing


class CornerOutput(NamedTuple):
    """Output of the corner head: maps of (h, w) cells over the whole input.

    In the axis of two, 0 is the top-left corner and 1 the bottom-right one.
    """

    heatmaps: Tensor  # (B, 2, K, h, w) logits: is there such a corner of that class in the cell
    embeddings: Tensor  # (B, 2, h, w): alike for the two corners of one object
    offsets: Tensor  # (B, 2, 2, h, w): x and y of the corner within its cell, in cells
    input_size: tuple[int, int]  # (height, width), pixels


DetectorOutput: TypeAlias = HeadOutput | CornerOutput
"""Output of a detector, which a Criterion learns from and a Decoder reads."""


class Assignment(NamedTuple):
    """Labels and boxes that each prior is to learn."""

    labels: Tensor  # (B, P) int64: -1 ignore, 0 background, 1..K
    boxes: Tensor  # (B, P, 4) xyxy, input pixels; the prior itself where the label is not positive
    quality: Tensor | None = None  # (B, P) in 0..1: how well a positive is to score; None where nothing says so


LossTerms: TypeAlias = "dict[str, Tensor]"
"""Named scalars. Their sum is differentiated; their names are logged."""


class Detections(NamedTuple):
    """The objects found in one image, best first."""

    boxes: np.ndarray  # (D, 4) float32 xyxy, pixels of the original image
    scores: np.ndarray  # (D,) float32 in 0..1, descending
    labels: np.ndarray  # (D,) int64 in 1..K

    @classmethod
    def empty(cls) -> Detections:
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


Predictor: TypeAlias = Callable[[Batch], "list[Detections]"]
"""Function that finds objects in network inputs, whatever program runs the network."""
