"""Norms that a converter merged into convolutions, and how they get statistics again before a training.

A merged norm is an affine map y = g·x + s, read as a norm of mean 0 and variance 1 - eps. It computes what it did,
but a training starts from it badly: the first batch is normalised by its own mean and variance, which are others.
With the mean m and variance v of the inputs x that occur, the norm

    running_mean = m, running_var = v, gain = g·sqrt(v + eps), bias = s + g·m

is the same map, and a batch is normalised by about what the norm says (Ioffe and Szegedy 2015, algorithm 2, solved
for gain and bias). Nothing is divided by g, so channels of a scale near or at 0 are like any other.

The scale itself went into the kernel, which matters too: a batch is normalised whatever the size of the kernel
before it, so a step changes what a kernel does by the rate over its squared norm (van Laarhoven 2017). Those of
COCO's expansions came out five times smaller than they were trained, and the network forgot what it knew at rates
that are safe for others. So kernels below the norm that He's initialisation gives are enlarged, and the gain makes
up for that.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssdlite.models.network import Network, is_norm
from ssdlite.models.variants import DIALECTS
from ssdlite.structures import CornerOutput, DetectorOutput

MIN_KERNEL_NORM = math.sqrt(2)  # of one channel, what He et al. 2015 (eq. 10) give at any fan-in


MAX_FACTOR = 64.0  # what is smaller than its share of that is a channel that learnt nothing


MERGED_VARIANCES = tuple(torch.tensor(1 - dialect.norm_eps).item() for dialect in DIALECTS.values())


class MeasuredNorms(NamedTuple):
    """Merged norms with statistics, and what that did to the network."""

    state: dict[str, Tensor]  # name in the network -> tensor of a norm or of a kernel before one, on the CPU
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

    `batches` yields them, (B, 3, H, W) uint8 on the network's device, each time the same. With no images the
    network stays as it is, and with a single value for a channel a norm does. Logits are held of one batch at most.
    """
    batch_iterator = iter(batches())
    first = next(batch_iterator, None)
    if first is None:
        return MeasuredNorms({}, 0, 0.0)
    norms = merged_norms(network)
    was_training = network.training
    network.eval()
    sums = {name: _Sums() for name in norms}
    old = copy.deepcopy(network)
    kernels = enlarge_kernels(network, norms)
    hooks = [norm.register_forward_pre_hook(partial(_add, sums[name])) for name, norm in norms.items()]
    num_images = 0
    for images in chain([first], batch_iterator):
        network(images)
        num_images += len(images)
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        _set_statistics(norm, sums[name])
    differences = [float((_logits(network(images)) - _logits(old(images))).abs().max()) for images in batches()]
    network.train(was_training)
    state = {
        f"{name}.{key}": value.cpu() for name, norm in norms.items() for key, value in norm.state_dict().items()
    }
    state |= {name: kernel.detach().cpu() for name, kernel in kernels.items()}
    return MeasuredNorms(state, num_images, max(differences, default=0.0))


@torch.no_grad()
def enlarge_kernels(network: nn.Module, norms: Mapping[str, nn.BatchNorm2d]) -> dict[str, Tensor]:
    """Enlarge the kernels that took in the scale of one of `norms`, and divide its gain by as much.

    Those are the kernels before norms that have one gain for all channels. Factors are powers of 2, so that every
    number stays what it was.

    Returns:
        The kernels by name.
    """
    kernels: dict[str, Tensor] = {}
    for name, norm in norms.items():
        parent, _, place = name.rpartition(".")
        conv = network.get_submodule(f"{parent}.{int(place) - 1}") if place.isdigit() and place != "0" else None
        if not isinstance(conv, nn.Conv2d) or conv.bias is not None or bool((norm.weight != norm.weight[0]).any()):
            continue
        lengths = conv.weight.flatten(1).norm(dim=1)
        wanted = (MIN_KERNEL_NORM / lengths).clamp(1, MAX_FACTOR)  # a kernel of zeros is multiplied as well
        factors = torch.exp2(wanted.log2().ceil())
        conv.weight.mul_(factors[:, None, None, None])
        norm.weight.div_(factors)
        if norm.running_mean is not None:
            norm.running_mean.mul_(factors)
        kernels[f"{parent}.{int(place) - 1}.weight"] = conv.weight
    return kernels


class _Sums:
    """Sums of the values of each channel, (C,) float64 on the CPU."""

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
