"""Optimizer, schedule, autocast type, and the exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

Precision = Literal["fp32", "bf16", "fp16"]


AUTOCAST_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


WARMUP_SHARE = 0.1  # of the run at most, so that a short run still reaches its learning rate


def build_sgd(
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    lr_factors: Mapping[str, float] | None = None,
) -> SGD:
    """SGD with Nesterov momentum over what is not frozen; norms and biases are not decayed.

    `lr_factors` are multiples of `lr` for the children of `model` that they name; the others have 1. The step is
    fused, and leaves itself out where `found_inf` says so, on CPUs and CUDA GPUs.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = (lr_factors or {}).get(name.split(".")[0], 1.0)
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    options = [
        {"params": parameters, "lr": lr * factor, "weight_decay": weight_decay if decayed else 0.0}
        for (factor, decayed), parameters in groups.items()
    ]
    # Metal's fused step takes `found_inf` as well, but nothing says since which version it heeds it.
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
    optimizer = SGD(options, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if momentum:
        # PyTorch 2.15's fused step leaves these uninitialised where it skips the first one, as a scaler has it.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def groups_of_parts(model: nn.Module, optimizer: Optimizer) -> dict[str, int]:
    """Child of `model` -> number of a parameter group with its learning rate; without those that are frozen."""
    numbers = {
        id(parameter): number
        for number, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    learning = {
        name: [numbers[id(parameter)] for parameter in child.parameters() if id(parameter) in numbers]
        for name, child in model.named_children()
    }
    return {name: found[0] for name, found in learning.items() if found}


def build_schedule(optimizer: Optimizer, *, total_steps: int, warmup_steps: int) -> LRScheduler:
    """Linear from lr/1000 over `warmup_steps`, then a cosine to zero at `total_steps`. Stepped once a step."""
    warmup_steps = min(warmup_steps, int(total_steps * WARMUP_SHARE))
    cosine = CosineAnnealingLR(optimizer, T_max=max(1, total_steps - warmup_steps))
    if warmup_steps == 0:
        return cosine
    warmup = LinearLR(optimizer, start_factor=1e-3, total_iters=warmup_steps)
    return SequentialLR(optimizer, [warmup, cosine], milestones=[warmup_steps])


def choose_precision(device: torch.device) -> Precision:
    """bf16 where the processor multiplies it natively, fp16 on older GPUs, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if native else "fp32"
    return "fp32"


class WeightAverage:
    """An average of a model's parameters and buffers with decay min(decay, (1 + n) / (10 + n)) at update n.

    The warm-up is that of TensorFlow's ExponentialMovingAverage(num_updates): without it a short run would ship a
    mixture with its random start. The first update copies. The number of updates is known without asking the
    device, which is why this is not PyTorch's AveragedModel.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.num_updates = 0
        # Tensors of one type, which one kernel takes many of. The model changes its own in place.
        self._means, self._values = _by_type(self.module), _by_type(model)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model as it is now."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.num_updates else 0.0
        for dtype, means in self._means.items():
            if decay and dtype.is_floating_point:
                torch._foreach_lerp_(means, self._values[dtype], 1 - decay)
            else:  # BatchNorm's counters are not averaged
                torch._foreach_copy_(means, self._values[dtype])
        self.num_updates += 1


def _by_type(model: nn.Module) -> dict[torch.dtype, list[Tensor]]:
    """Parameters and saved buffers; the same types and order for a model and its copy."""
    tensors = list(model.state_dict().values())
    return {dtype: [one for one in tensors if one.dtype is dtype] for dtype in {one.dtype for one in tensors}}
