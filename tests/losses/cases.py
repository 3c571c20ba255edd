"""Outputs and assignments to try the recipes on."""

from __future__ import annotations

import torch

from ssdlite import boxes as box_ops
from ssdlite.structures import Assignment, HeadOutput

PRIORS = torch.tensor([[20.0 * (i % 5) + 10, 20.0 * (i // 5) + 10, 18, 22] for i in range(25)])


def sample(positives_per_image, num_classes=4, seed=0, activation="softmax") -> tuple[HeadOutput, Assignment]:
    torch.manual_seed(seed)
    batch = len(positives_per_image)
    logits, deltas = torch.randn(batch, 25, num_classes + 1) * 2, torch.randn(batch, 25, 4)
    output = HeadOutput(logits, deltas, PRIORS, activation)
    labels = torch.zeros(batch, 25, dtype=torch.int64)
    boxes = box_ops.cxcywh_to_xyxy(PRIORS).repeat(batch, 1, 1) + torch.rand(batch, 25, 4) * 5
    for image, count in enumerate(positives_per_image):
        labels[image, torch.randperm(25)[:count]] = torch.randint(1, num_classes + 1, (count,))
    return output, Assignment(labels, boxes)


class InDouble:
    """While entered, `.float()` does nothing: a recipe computes in the type of its input, as gradcheck needs it."""

    def __enter__(self) -> None:
        self.original = torch.Tensor.float
        torch.Tensor.float = lambda tensor: tensor

    def __exit__(self, *_: object) -> None:
        torch.Tensor.float = self.original


def gradcheck(recipe: torch.nn.Module, output: HeadOutput, assignment: Assignment) -> bool:
    """Whether the gradients of the recipe's sum are the numerical ones, for logits and deltas."""
    priors = output.priors.double()

    def loss(logits: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
        doubled = HeadOutput(logits, deltas, priors, output.score_activation, output.level_sizes)
        with InDouble():
            terms = recipe(doubled, assignment._replace(boxes=assignment.boxes.double()))
        return torch.stack(list(terms.values())).sum()

    inputs = [tensor.double().requires_grad_() for tensor in output[:2]]
    return torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-5)
