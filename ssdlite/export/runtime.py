"""Stand-alone detector for files of `ssdlite export-onnx`, to be copied into a product; NumPy and onnxruntime only.

    detector = OnnxDetector("best.onnx")
    boxes, scores, labels = detector(image)  # (H, W, 3) uint8 RGB of any size
    names = [detector.class_names[label] for label in labels]

It runs files of every head, input form and precision, and imports nothing of ssdlite, which uses the same
functions. It does not check the metadata of a file; `ssdlite predict` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

EXACT_INT8 = "session.x64quantprecision"
"""Session option that prevents overflow in int8 files.

Processors with AVX2 but without VNNI add two products of 8 bits in 16 bits, which can overflow: a pedestrian
network with 8 bit weights had an AP of .113 that way, and .188 with this option, at 1.4 times the time. Files with
7 bit weights never overflow, and the option costs them nothing."""


FRAME = 1  # before suppression, boxes reach at most this many input sides beyond the input; see `boxes_np.FRAME`


class OnnxDetector:
    """Detector that returns boxes (D, 4) xyxy in pixels of the image, scores (D,), and labels (D,) from 0.

    The best detection comes first. `threads` is the number of threads of one operator; 0 leaves it to onnxruntime
    (one per physical core).
    """

    def __init__(self, path: Path | str, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry(EXACT_INT8, "1" if may_overflow() else "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        properties = self.session.get_modelmeta().custom_metadata_map
        document = json.loads(properties["ssdlite"])
        self.class_names: list[str] = json.loads(properties["names"])
        self.head, self.input, self.output = document["head"], document["input"], document["output"]
        self.size: tuple[int, int] = tuple(self.input["size"])  # (height, width), pixels
        self.priors = np.array(json.loads(properties.get("ssdlite.priors", "[]")), np.float32)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixels = resize(image, self.size, self.input["resize_alignment"]).astype(self.input["dtype"])
        pixels = pixels if self.input["layout"] == "NHWC" else pixels.transpose(2, 0, 1)
        count = self.session.get_inputs()[0].shape[0]  # text if any number is accepted
        batch = np.repeat(pixels[None], count if isinstance(count, int) else 1, axis=0)
        boxes, scores, labels = self._select([output[0] for output in self.session.run(None, {"images": batch})])
        height, width = np.divide(image.shape[:2], self.size)
        return boxes * np.array([width, height, width, height], np.float32), scores, labels

    def _select(self, outputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return boxes in input pixels, scores and labels from the outputs of the file for one image."""
        if self.head == "nms":
            boxes, scores, labels, count = outputs
            return boxes[:count], scores[:count], labels[:count]
        if self.head == "raw-levels":
            half, columns = len(outputs) // 2, len(self.class_names) + 1
            outputs = join_levels(outputs[:half], columns), join_levels(outputs[half:], 4)
        boxes, scores = outputs
        if self.head != "decoded":
            logits, deltas = outputs
            scores = class_scores(logits, self.output["score_activation"])
            boxes = decode_boxes(deltas, self.priors, self.output["variances"], self.size)
        limits = ("score_threshold", "iou_threshold", "candidates_per_class", "max_detections")
        return select_detections(boxes, scores, self.size, **{name: self.output[name] for name in limits})


def may_overflow() -> bool:
    """Tell whether this processor needs `EXACT_INT8`, which doubles the time of 8 bit weights on others."""
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: assume that it may
        return True


def resize(image: np.ndarray, size: tuple[int, int], alignment: str = "half_pixel") -> np.ndarray:
    """Resize (H, W, 3) to (*size, 3) uint8, within one grey level of the resizing that the network was trained
    with.

    Two matrix products: 10 ms for 640x480 and 50 ms for 1920x1080 on one core. An image that has the size already
    is returned unchanged, so it can be resized faster before: for "half_pixel" by cv2.resize with INTER_AREA if
    both sides shrink to less than half, else with INTER_LINEAR.
    """
    if image.shape[:2] == tuple(size):
        return image
    averages = alignment == "half_pixel" and image.shape[0] > 2 * size[0] and image.shape[1] > 2 * size[1]
    rows, columns = (
        _weights(length, target, alignment, averages) for length, target in zip(image.shape[:2], size, strict=True)
    )
    shrunk = np.tensordot(np.tensordot(rows, image.astype(np.float32), 1), columns, (1, 1)).transpose(0, 2, 1)
    return np.rint(shrunk).astype(np.uint8)


def _weights(length: int, target: int, alignment: str, averages: bool) -> np.ndarray:
    """Return (target, length) float32: the weight of each old pixel in each new one."""
    scale, old = length / target, np.arange(length)
    start = np.arange(target)[:, None] * scale
    if averages:  # weight by the length that an old and a new pixel share
        weights = (np.minimum(start + scale, old + 1) - np.maximum(start, old)).clip(0) / scale
    else:  # interpolate linearly between the two nearest old pixels
        position = start + (scale - 1) / 2 if alignment == "half_pixel" else start
        weights = (1 - np.abs(position.clip(0, length - 1) - old)).clip(0)
    return weights.astype(np.float32)


def join_levels(maps: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Join maps (..., priors per cell · columns, h, w), one per level, to (..., P, columns) in prior order."""
    rows = [np.moveaxis(level, -3, -1) for level in maps]
    return np.concatenate(
        [level.reshape(*level.shape[:-3], math.prod(level.shape[-3:]) // columns, columns) for level in rows],
        axis=-2,
    )


def class_scores(logits: np.ndarray, activation: str) -> np.ndarray:
    """Return the scores (..., K) of the classes from logits (..., C), background first, by softmax or sigmoid."""
    if activation == "sigmoid":
        with np.errstate(over="ignore"):  # overflow gives a score of 0
            return (1 / (1 + np.exp(-logits)))[..., 1:]
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (exponentials / exponentials.sum(axis=-1, keepdims=True))[..., 1:]


def decode_boxes(
    deltas: np.ndarray, priors: np.ndarray, variances: Sequence[float], size: tuple[int, int]
) -> np.ndarray:
    """Decode deltas (..., P, 4) of priors (P, 4) cxcywh to xyxy boxes (..., P, 4), all in input pixels.

    The formula is that of `boxes.decode`.
    """
    center_variance, size_variance = map(np.float32, variances)
    centers = priors[..., :2] + deltas[..., :2] * center_variance * priors[..., 2:]
    with np.errstate(over="ignore"):  # an infinite side is clipped below
        sizes = priors[..., 2:] * np.exp(deltas[..., 2:] * size_variance)
    ends = _ends(size)
    return np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=-1).clip(
        -FRAME * ends, ends + FRAME * ends
    )


def select_detections(
    boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int], *,
    score_threshold: float, iou_threshold: float, candidates_per_class: int, max_detections: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Select detections of one image from `boxes` (P, 4) and `scores` (P, K) by suppression within each class.

    Return boxes clipped to `size`, scores, and labels from 0, the best first. Boxes outside the image are left out.
    """
    clipped = boxes.clip(0, _ends(size))
    has_area = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    found = []
    for label, column in enumerate(scores.T):
        candidates = np.flatnonzero(has_area & (column > score_threshold))
        candidates = candidates[np.argsort(-column[candidates], kind="stable")[:candidates_per_class]]
        kept = candidates[suppress(boxes[candidates], iou_threshold)]
        found.append((clipped[kept], column[kept], np.full(len(kept), label, np.int64)))
    all_boxes, all_scores, all_labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = np.argsort(-all_scores, kind="stable")[:max_detections]
    return all_boxes[best], all_scores[best], all_labels[best]


def suppress(boxes: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression of xyxy boxes (N, 4), best first; return the positions of those kept.

    A box is removed when its IoU with one that was kept before it is above `iou_threshold`.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = []
    left = np.arange(len(boxes))
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        common = sides.clip(min=0).prod(axis=1)
        # Multiplied out, so that boxes without area overlap nothing.
        left = left[common <= iou_threshold * (areas[best] + areas[left] - common)]
    return np.array(kept, np.int64)


def _ends(size: tuple[int, int]) -> np.ndarray:
    """Return the upper limits (4,) float32 of x1, y1, x2, y2 for `size` (height, width)."""
    height, width = size
    return np.array([width, height, width, height], np.float32)
