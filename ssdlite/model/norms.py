"""Norms that a converter merged into convolutions, and how they get statistics again before a training.

A merged norm is an affine map y = g·x + s, read as a norm of mean 0 and variance 1 - eps. It computes what it did,
but a training starts from it badly: the first batch is normalised by its own mean and variance, which are others.
With the mean m and variance v of the inputs x that occur, the norm

    running_mean = m, running_var = v, gain = g·sqrt(v + eps), bias = s + g·m

is the same map, and a batch is normalised by about what the norm says (Ioffe and Szegedy 2015, algorithm 2, solved
for gain and bias). Nothing is divided by g, so channels of a scale near or at 0 are like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssdlite.model.architecture import DIALECTS
from ssdlite.model.network import Network, is_norm
from ssdlite.structures import CornerOutput, DetectorOutput

MERGED_VARIANCES = tuple(torch.tensor(1 - dialect.norm_eps).item() for dialect in DIALECTS.values())


class MeasuredNorms(NamedTuple):
    """Merged norms with statistics, and what that did to the network."""

    state: dict[str, Tensor]  # name in the network -> tensor, on the CPU
    num_images: int
    largest_difference: float  # of the logits of these images, before and after


def merged_norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Find the norms of which every channel has a variance of exactly 1 - eps, by name.

    The eps may be another dialect's: a transfer between dialects makes up for it in the gain. The mean is 0 but for
    a stem that a transfer gave another normalisation of the input. Fresh norms have a variance of 1, and measured
    variances are never all the same.
    """
    return {
        name: module
        for name, module in network.named_modules()
        if is_norm(module) and _is_merged(module.running_var)
    }


def _is_merged(variance: Tensor | None) -> bool:
    if variance is None or not len(variance):
        return False
    first = variance[0].item()
    return first in MERGED_VARIANCES and bool((variance == first).all())


@torch.no_grad()
def measure_norms(network: Network, batches: Callable[[], Iterable[Tensor]]) -> MeasuredNorms:
    """Give the merged norms of `network` the statistics of images; it computes what it did.

    `batches` yields them, (B, 3, H, W) uint8 on the network's device, each time the same. With no images, or a
    single value for a channel, a norm stays as it is.
    """
    norms = merged_norms(network)
    was_training = network.training
    network.eval()
    sums = {name: _Sums() for name in norms}
    hooks = [norm.register_forward_pre_hook(partial(_add, sums[name])) for name, norm in norms.items()]
    before = [_logits(network(images)) for images in batches()]
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        _set_statistics(norm, sums[name])
    differences = [
        float((_logits(network(images)) - logits).abs().max())
        for images, logits in zip(batches(), before, strict=True)
    ]
    network.train(was_training)
    state = {
        f"{name}.{key}": value.cpu() for name, norm in norms.items() for key, value in norm.state_dict().items()
    }
    return MeasuredNorms(state, sum(map(len, before)), max(differences, default=0.0))


class _Sums:
    """Of the values of each channel, (C,) float64 on the CPU."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.squares = torch.zeros(())


def _add(sums: _Sums, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    # Summed where they are, in a fraction of var_mean's time; joined on the CPU, because MPS has no float64.
    values = inputs[0].float()
    sums.count += values.numel() // values.shape[1]
    sums.total = sums.total + values.sum((0, 2, 3)).cpu().double()
    sums.squares = sums.squares + values.square().sum((0, 2, 3)).cpu().double()


def _set_statistics(norm: nn.BatchNorm2d, sums: _Sums) -> None:
    if sums.count < 2:
        return
    assert norm.running_mean is not None and norm.running_var is not None
    old_mean, old_variance, gain, bias = (
        tensor.cpu().double() for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    scale = gain / (old_variance + norm.eps).sqrt()
    shift = bias - scale * old_mean
    mean = sums.total / sums.count
    variance = (
        (sums.squares / sums.count - mean**2).clamp(min=0) * sums.count / (sums.count - 1)
    )  # as BatchNorm's own
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift + scale * mean)


def _logits(output: DetectorOutput) -> Tensor:
    return (output.heatmaps if isinstance(output, CornerOutput) else output.logits).cpu()
