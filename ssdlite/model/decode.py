"""From the Detector's output to detections: scores, boxes, suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ssdlite import boxes as box_ops
from ssdlite.box_arrays import FRAME
from ssdlite.model.corner_decode import decode_corners
from ssdlite.structures import CornerOutput, Detections, DetectorOutput


def decode_output(output: DetectorOutput, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """All priors, or the best pairs of corners, as boxes (B, P, 4) xyxy, input pixels, and scores (B, P, K).

    There is no column for background. Boxes reach beyond the image, by `box_arrays.FRAME` at most: suppression
    comes first, clipping afterwards. In float32 whatever the network ran in. This much goes into every exported
    file.
    """
    if isinstance(output, CornerOutput):
        return decode_corners(output)
    boxes = box_ops.decode(output.deltas.float(), output.priors)
    height, width = input_size
    sides = boxes.new_tensor([width, height, width, height])
    boxes = boxes.clamp(-FRAME * sides, sides + FRAME * sides)
    logits = output.logits.float()
    scores = logits.softmax(dim=-1) if output.score_activation == "softmax" else logits.sigmoid()
    return boxes, scores[..., 1:]


@dataclass(frozen=True)
class Decoder:
    """Turns DetectorOutput into Detections by score threshold and suppression a class.

    Boxes without area in the image are left out. The others compete as they are, and what is chosen is clipped to
    the image afterwards, as in TensorFlow: clipping makes boxes at the border more alike than they are.
    score_threshold and iou_threshold are exclusive: a box is kept above the first, and suppressed when it overlaps
    a better one of its class by more than the second.
    """

    input_size: tuple[int, int]
    score_threshold: float = 0.01
    iou_threshold: float = 0.5
    candidates_per_class: int = 400
    max_detections: int = 100

    @torch.no_grad()
    def __call__(self, output: DetectorOutput, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image, in pixels of the original images of (height, width) `original_sizes`."""
        boxes, scores = decode_output(output, self.input_size)
        images = zip(boxes, scores, original_sizes, strict=True)
        return [self._select(*image) for image in images]

    def _select(self, boxes: Tensor, scores: Tensor, original_size: tuple[int, int]) -> Detections:
        """(P, 4) and (P, K) of one image -> its detections."""
        clipped = box_ops.clip(boxes, self.input_size)
        is_seen = (clipped[:, 2:] > clipped[:, :2]).all(dim=1, keepdim=True)
        scores = scores.where(is_seen, 0)
        candidates = min(self.candidates_per_class, len(scores))
        top_scores, top_priors = scores.T.topk(candidates, dim=1)  # (K, candidates)
        labels, ranks = torch.nonzero(top_scores > self.score_threshold, as_tuple=True)
        if not len(labels):
            return Detections.empty()
        scores, priors = top_scores[labels, ranks], top_priors[labels, ranks]
        boxes = boxes[priors]
        # It separates classes by moving their boxes, and takes all coordinates for positive.
        kept = batched_nms(boxes - boxes.min(), scores, labels, self.iou_threshold)[: self.max_detections]
        height, width = original_size
        scale = torch.tensor([width / self.input_size[1], height / self.input_size[0]] * 2)
        return Detections(
            (clipped[priors[kept]].cpu() * scale).numpy(),
            scores[kept].cpu().numpy(),
            labels[kept].cpu().numpy() + 1,
        )
