"""Optimizer, schedule and autocast type."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

Precision = Literal["fp32", "bf16", "fp16"]

AUTOCAST_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

WARMUP_SHARE = 0.1  # of the run at most, so that a short run still reaches its learning rate


def build_sgd(model: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> SGD:
    """SGD with Nesterov momentum; norms and biases are not decayed."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)


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
