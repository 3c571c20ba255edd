"""Operations of a step on all layers at once.

A network has a hundred layers. On a GPU each of these operations takes a few microseconds to start and next to
nothing to run, so that layer by layer they take longer than the convolutions of a small batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ssdlite.models.network import is_norm

GROUP = 32
"""Weights that are cast together. Their gradients are ready together too, and the exchange between processes is to
begin before the last one is."""


class BufferSnapshot:
    """The buffers of a model as they were, to go back to.

    Buffers of one type lie in one tensor here, because there is no choice between two lists of tensors, only
    between two tensors; a sum weighted by 0 and 1 would not do, as 0 · NaN is NaN.
    """

    def __init__(self, model: nn.Module) -> None:
        buffers = list(model.buffers())
        self._groups = [
            _Group([buffer for buffer in buffers if buffer.dtype is dtype])
            for dtype in dict.fromkeys(buffer.dtype for buffer in buffers)
        ]

    def take(self) -> None:
        """Remember the buffers as they are."""
        for group in self._groups:
            torch._foreach_copy_(group.before_parts, group.buffers)

    def restore(self, condition: Tensor) -> None:
        """Give the buffers back what they were where `condition`, a scalar of type bool, is set."""
        for group in self._groups:
            torch._foreach_copy_(group.now_parts, group.buffers)
            torch.where(condition, group.before, group.now, out=group.now)
            torch._foreach_copy_(group.buffers, group.now_parts)


class _Group:
    """Buffers of one type, and two tensors with room for all of them."""

    def __init__(self, buffers: list[Tensor]) -> None:
        self.buffers = buffers
        self.before, self.before_parts = _room_for(buffers)
        self.now, self.now_parts = _room_for(buffers)


def _room_for(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One tensor, and parts of it of the shapes of `tensors`."""
    room = tensors[0].new_empty(sum(tensor.numel() for tensor in tensors))
    parts = room.split([tensor.numel() for tensor in tensors])
    return room, [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


class NormCounters:
    """`num_batches_tracked` of a model's norms, which each of them would count by itself.

    With a momentum the number has no influence; files have it, so it is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [norm for norm in model.modules() if is_norm(norm) and norm.momentum is not None]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Count a batch that goes through the model inside, for all norms in training at its end."""
        counting = [
            (norm, norm.num_batches_tracked)
            for norm in self._norms
            if norm.training and norm.num_batches_tracked is not None
        ]
        for norm, _ in counting:
            norm._buffers["num_batches_tracked"] = None
        try:
            yield
        finally:
            for norm, counter in counting:
                norm._buffers["num_batches_tracked"] = counter
        if counting:
            torch._foreach_add_([counter for _, counter in counting], 1)


class NarrowConvolutions:
    """Weights and biases of a model's convolutions in the type that autocast would give each of them by itself."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        self._places = [
            (conv, name, parameter)
            for conv in convolutions
            for name, parameter in conv.named_parameters(recurse=False)
        ]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the convolutions have the narrow ones, through which gradients reach the parameters."""
        for learns in (True, False):
            places = [place for place in self._places if place[2].requires_grad is learns]
            for start in range(0, len(places), GROUP):
                group = places[start : start + GROUP]
                narrow = _Cast.apply(self.dtype, *[parameter for *_, parameter in group])
                for (conv, name, _), tensor in zip(group, narrow, strict=True):
                    conv._parameters[name] = tensor
        try:
            yield
        finally:
            for conv, name, parameter in self._places:
                conv._parameters[name] = parameter


class _Cast(torch.autograd.Function):
    """Tensors of one type in another one, and their gradients the other way."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        return tuple(_cast(tensors, dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        cast = iter(_cast([gradient for gradient in gradients if gradient is not None], ctx.dtype))
        return None, *(None if gradient is None else next(cast) for gradient in gradients)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    results = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if results:
        torch._foreach_copy_(results, list(tensors))
    return results
