"""From the Detector's output to detections: scores, boxes, suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ssdlite import boxes as box_ops
from ssdlite.structures import Detections, HeadOutput


def decode_output(output: HeadOutput, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """All priors as boxes (B, P, 4) xyxy, input pixels, clipped, and scores (B, P, K) without background.

    In float32 whatever the network ran in. This much goes into every exported file.
    """
    boxes = box_ops.decode(output.deltas.float(), output.priors)
    logits = output.logits.float()
    scores = logits.softmax(dim=-1) if output.score_activation == "softmax" else logits.sigmoid()
    return box_ops.clip(boxes, input_size), scores[..., 1:]


@dataclass(frozen=True)
class Decoder:
    """Turns HeadOutput into Detections by score threshold and suppression a class.

    score_threshold and iou_threshold are exclusive: a box is kept above the first, and suppressed when it overlaps
    a better one of its class by more than the second.
    """

    input_size: tuple[int, int]
    score_threshold: float = 0.01
    iou_threshold: float = 0.5
    candidates_per_class: int = 400
    max_detections: int = 100

    @torch.no_grad()
    def __call__(self, output: HeadOutput, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image, in pixels of the original images of (height, width) `original_sizes`."""
        boxes, scores = decode_output(output, self.input_size)
        images = zip(boxes, scores, original_sizes, strict=True)
        return [self._select(*image) for image in images]

    def _select(self, boxes: Tensor, scores: Tensor, original_size: tuple[int, int]) -> Detections:
        """(P, 4) and (P, K) of one image -> its detections."""
        candidates = min(self.candidates_per_class, len(scores))
        top_scores, top_priors = scores.T.topk(candidates, dim=1)  # (K, candidates)
        labels, ranks = torch.nonzero(top_scores > self.score_threshold, as_tuple=True)
        scores, boxes = top_scores[labels, ranks], boxes[top_priors[labels, ranks]]
        kept = batched_nms(boxes, scores, labels, self.iou_threshold)[: self.max_detections]
        height, width = original_size
        scale = torch.tensor([width / self.input_size[1], height / self.input_size[0]] * 2)
        return Detections(
            (boxes[kept].cpu() * scale).numpy(), scores[kept].cpu().numpy(), labels[kept].cpu().numpy() + 1
        )
