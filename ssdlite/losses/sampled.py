"""SampledLoss: the losses of Faster R-CNN's region proposal network, for several classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssdlite.losses.classification import softmax_cross_entropy
from ssdlite.losses.reduction import mean_over_processes, weighted_mean
from ssdlite.losses.sampling import sample_balanced
from ssdlite.losses.terms import BoxTerm, class_weights, weight_of
from ssdlite.structures import Assignment, HeadOutput, LossTerms


class SampledLoss(nn.Module):
    """Ren et al. 2015, eq. 1 and sec. 3.1.3:  (Σ CE over sampled priors + λ·Σ L_box over sampled positives) / N.

    The priors of an image that count are drawn at random. N is the number of sampled positives in the batch, at
    least one an image, which brings the loss near to that of the other recipes: Faster R-CNN's code divides both
    terms by the number of samples, which is some forty times more. Few objects still make a large loss, as hundreds
    of negatives stand against each. Priors that cross the border take part, unlike there; those of label -1 do not.

    What is drawn depends on `seed` and on the number of draws before, which is the module's state: a run that is
    resumed draws what it would have drawn.

    Args:
        box: the box term; the paper's smooth L1 has beta 1/9.
        num_samples: priors drawn of each image.
        positive_share: positives among them at most.
        label_smoothing: share of a target that is spread over all columns.
        weights: of the K classes, for the classification of the priors that learn them.
        seed: another one for each process.
    """

    weights: Tensor | None

    def __init__(
        self,
        *,
        box: BoxTerm = BoxTerm(beta=1 / 9),
        num_samples: int = 256,
        positive_share: float = 0.5,
        label_smoothing: float = 0.0,
        weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.box = box
        self.num_samples = num_samples
        self.positive_share = positive_share
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.draws = 0
        self.register_buffer("weights", class_weights(weights), persistent=False)

    def forward(self, output: HeadOutput, assignment: Assignment) -> LossTerms:
        """Logits (B, P, C), deltas (B, P, 4) against labels (B, P), boxes (B, P, 4) -> two scalars."""
        assert output.score_activation == "softmax"
        labels = assignment.labels
        sampled = sample_balanced(
            labels,
            num_samples=self.num_samples,
            positive_share=self.positive_share,
            generator=self._next_generator(labels.device),
        )
        learning = sampled & (labels > 0)
        total = mean_over_processes(learning.sum(), at_least=1).clamp(min=len(labels))
        losses = softmax_cross_entropy(output.logits.float(), labels, label_smoothing=self.label_smoothing)
        classification = weighted_mean(losses, sampled * weight_of(labels, self.weights), total)
        return {"classification": classification, "box": self.box(output, assignment, learning.float(), total)}

    def _next_generator(self, device: torch.device) -> torch.Generator:
        seed = np.random.SeedSequence((self.seed, self.draws)).generate_state(1)
        self.draws += 1
        return torch.Generator(device).manual_seed(int(seed[0]))

    def get_extra_state(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]
