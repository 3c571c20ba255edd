"""Two other ways to train a detector on the same batch: a plain one for the same network, and torchvision's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from ssdlite import build
from ssdlite.benchmark.memory import TrainingMemory, training_memory
from ssdlite.benchmark.timing import reading, synchronizer
from ssdlite.benchmark.workload import Workload, resident_batch, total_loss
from ssdlite.model.activation import LeanReLU6

WARMUP_START = 1e-3  # of the rate, which stays there: at its peak an untrained network may diverge


class Rival:
    """A training step as one would write it first: float32, PyTorch's own memory formats and allocation.

    On GPUs with TF32 it has the convolutions' factors in that, as PyTorch does by itself.

    Args:
        loss: forward and loss of the batch.
        model: what learns, by SGD with the config's rate, momentum and decay.
    """

    def __init__(self, workload: Workload, model: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.device, self.loss = workload.device, loss
        optim = workload.config.optim
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=WARMUP_START * optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
        )

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def whole(self, repeats: int) -> float:
        """Seconds of a step."""
        return reading(self.step, repeats=repeats, synchronize=synchronizer(self.device))()

    def memory(self) -> TrainingMemory:
        return training_memory(self.device)


def make_plain(workload: Workload) -> Rival:
    """Our own network and criterion without what makes them fast: float32, contiguous, ReLU6 in place."""
    config, device = workload.config, workload.device
    torch.manual_seed(config.run.seed)
    model = build.empty_detector(config, workload.train.class_names).train()
    restore_relu6(model)
    model.to(device)
    criterion = build.build_criterion(config.loss, workload.train, seed=config.run.seed).to(device)
    batch = resident_batch(config.model.input_size, config.train.batch_size, workload.num_classes, device)
    images = batch.images.contiguous()

    def loss() -> Tensor:
        terms = criterion(model(images), batch.boxes, batch.labels, batch.ignore)
        return total_loss(terms)

    return Rival(workload, model, loss)


def make_torchvision(workload: Workload) -> Rival:
    """torchvision's SSDLite (MobileNetV3) from scratch, at our input size in place of its 320x320."""
    config, device = workload.config, workload.device
    torch.manual_seed(config.run.seed)
    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=workload.num_classes + 1
    ).train()
    height, width = config.model.input_size
    model.transform.fixed_size = (width, height)
    model.to(device)
    batch = resident_batch(config.model.input_size, config.train.batch_size, workload.num_classes, device)
    images = list(batch.images.contiguous().float() / 255)
    targets = [
        {"boxes": boxes[labels > 0], "labels": labels[labels > 0]}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]

    def loss() -> Tensor:
        return total_loss(model(images, targets))

    return Rival(workload, model, loss)


def restore_relu6(module: nn.Module) -> None:
    """Make every LeanReLU6 inside `module` PyTorch's own, in place as torchvision's networks have it."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LeanReLU6):
                setattr(parent, name, nn.ReLU6(inplace=True))
