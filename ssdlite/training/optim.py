"""Optimizer, schedule and autocast type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
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
