"""Number of kernels that a training step starts on a GPU, counted without one.

The step runs on tensors without values that say they lie on a GPU, and every operator that reaches the device is
seen on its way. What is counted is what PyTorch launches for it, as far as its source says:

- Views, allocations and metadata launch nothing. Any other operator launches one kernel, a copy or a fill too.
- A convolution launches one, and one for its bias; its backward one for each gradient that is asked for.
- A norm counts as one, forward and backward, which it is in cuDNN. In bfloat16 PyTorch takes its own, of three
  kernels and two.
- `masked_fill`, `scatter` and the like copy first; in place they do not.
- `_foreach_*` and the fused optimizer launch as `multi_tensor_apply` does: chunks of 65,536 elements, at most 320
  chunks and 110, 64, 48, 36 or 30 tensors a launch, for 1 to 5 lists. Lists of mixed types or of layouts that
  differ are worked on tensor by tensor. A norm of a list also clears its partial sums and adds them up.
- Sorting and `topk` count as one; how many passes they make depends on sizes and on the GPU. Where kernels inside
  cuDNN need a workspace cleared or a layout changed, this is not seen.

So the figures are of operators that launch, a lower bound of what a profiler shows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

from ssdlite.losses.recipes import Criterion
from ssdlite.structures import Batch, LossTerms
from ssdlite.training import optim
from ssdlite.training.step import TrainStep

PARTS = ("forward", "assignment", "loss", "backward", "optimizer", "statistics", "average")


CHUNK = 65_536  # elements; this and the next two are constants of ATen's MultiTensorApply.cuh


MAX_CHUNKS = 320


MAX_TENSORS = (110, 64, 48, 36, 30)  # for 1 to 5 lists of tensors


NO_LAUNCH = frozenset(
    [
        "_unsafe_view",
        "_reshape_alias",
        "detach",
        "detach_",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "lift_fresh",
        "resize_",
        "set_",
        "is_same_size",
        "sym_size",
        "sym_stride",
        "sym_numel",
        "sym_storage_offset",
        "device",
        "layout",
    ]
)


class LaunchCounter(TorchDispatchMode):
    """Counts the launches of what runs inside it, by part and operator: `launches[part, operator]`."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[tuple[str, str]] = Counter()
        self._parts = ["other"]
        self._ignored = ""

    @property
    def total(self) -> int:
        return sum(self.launches.values())

    def by_part(self) -> dict[str, int]:
        parts: Counter[str] = Counter()
        for (part, _), count in self.launches.items():
            parts[part] += count
        return dict(parts)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as `name`; the innermost name counts."""
        self._parts.append(name)
        try:
            yield
        finally:
            self._parts.pop()

    @contextmanager
    def ignoring(self, operator: str) -> Iterator[None]:
        """Do not count `operator` inside."""
        self._ignored = operator
        try:
            yield
        finally:
            self._ignored = ""

    def within(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, counted as `name`."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        count = launches_of(func, args)
        if count and func.overloadpacket.__name__ != self._ignored:
            self.launches[self._parts[-1], func.overloadpacket.__name__] += count
        if func.overloadpacket.__name__.startswith("_fused_"):
            return None  # has no form without values; what it would change has no values either
        return func(*args, **(kwargs or {}))


def launches_of(operator: Any, args: Sequence[Any]) -> int:
    """Kernels that `operator` (a torch._ops.OpOverload) launches for `args`."""
    name = operator.overloadpacket.__name__
    if operator.namespace in ("prim", "profiler") or name in NO_LAUNCH or _is_view(operator):
        return 0
    if name.startswith(("_foreach_", "_fused_")):
        return _list_launches(name, args)
    match name:
        case "convolution" | "_convolution":
            return 1 + (args[2] is not None)
        case "convolution_backward":
            return sum(args[-1])
        case "masked_fill" | "scatter" | "scatter_add" | "scatter_reduce" | "index_fill":
            return 2
    return 1


def _is_view(operator: Any) -> bool:
    returns = operator._schema.returns
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)


def _list_launches(name: str, args: Sequence[Any]) -> int:
    lists = [arg for arg in args if isinstance(arg, list | tuple) and arg and isinstance(arg[0], Tensor)]
    if name.startswith("_fused_"):
        lists = lists[:3]  # parameters, gradients, momentum; the rest are scalars
    tensors = [each for each in lists[0] if each.numel()]
    alike = all(len({each.dtype for each in one}) == 1 for one in lists)
    alike = alike and all(_same_layout(*row) for row in zip(*lists, strict=True))
    if not alike:
        return len(tensors)
    launches = chunks = held = 0
    for number, tensor in enumerate(tensors, start=1):
        held += 1
        pieces = math.ceil(tensor.numel() / CHUNK)
        for piece in range(1, pieces + 1):
            chunks += 1
            last = piece == pieces
            full = (held == MAX_TENSORS[len(lists) - 1] and last) or chunks == MAX_CHUNKS
            if full or (last and number == len(tensors)):
                launches, chunks, held = launches + 1, 0, 0 if last else 1
    return launches + 2 if "norm" in name else launches


def _same_layout(*tensors: Tensor) -> bool:
    """Return whether strides are the same along all axes that are longer than 1, as ATen compares them."""
    strides = {
        tuple(stride for side, stride in zip(tensor.shape, tensor.stride(), strict=True) if side != 1)
        for tensor in tensors
    }
    return len(strides) == 1


@torch.no_grad()
def backward_in_python(loss: Tensor, counter: LaunchCounter) -> None:
    """`loss.backward()` through the graph's own nodes: PyTorch's engine asks the driver for a stream first.

    As the engine does it adds up gradients that meet, fits them to the shape and type of what they are of, and
    hands parameters theirs without a copy where strides are the same.
    """
    root = loss.grad_fn
    assert root is not None
    waiting: Counter[Any] = Counter()
    seen, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                waiting[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    incoming: dict[Any, list[Tensor | None]] = {root: [torch.ones_like(loss)]}
    ready = [root]
    while ready:
        node = ready.pop()
        gradients = incoming.pop(node)
        if hasattr(node, "variable"):
            _accumulate(node.variable, gradients[0])
            continue
        call: Any = getattr(node, "apply", node)  # of a torch.autograd.Function, or of PyTorch's own
        # Called like this a norm keeps its cuDNN workspace for another time, which the engine does not.
        with counter.ignoring("clone") if "CudnnBatchNorm" in node.name() else nullcontext():
            results = call(*gradients) if any(each is not None for each in gradients) else None
        results = results if isinstance(results, tuple) else (results,)
        results = results[-len(node.next_functions) :]  # what is no tensor comes first, and is no node of the graph
        for position, (following, number) in enumerate(node.next_functions):
            if following is None:
                continue
            gradient = results[position] if position < len(results) else None
            slots = incoming.setdefault(following, [None] * len(following._input_metadata))
            if gradient is not None:
                about = following._input_metadata[number]
                if gradient.shape != about.shape:
                    gradient = gradient.sum_to_size(about.shape)
                gradient = gradient.to(about.dtype)
                present = slots[number]
                slots[number] = gradient if present is None else present + gradient
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)


def _accumulate(parameter: Tensor, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    if parameter.grad is not None:
        parameter.grad += gradient
    elif _same_layout(gradient, parameter):
        parameter.grad = gradient
    else:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


@contextmanager
def pretended_gpu() -> Iterator[FakeTensorMode]:
    """Tensors without values, and an autocast that believes in a GPU that has bfloat16."""
    with ExitStack() as stack:
        for name, answer in (("amp.common.amp_definitely_not_available", False), ("is_bf16_supported", True)):
            stack.enter_context(mock.patch(f"torch.cuda.{name}", lambda *_, answer=answer, **__: answer))
        mode = stack.enter_context(FakeTensorMode())
        types = [*_foreach_utils._foreach_supported_types, FakeTensor]
        stack.enter_context(mock.patch.object(_foreach_utils, "_foreach_supported_types", types))
        # A copied tensor would bring a copied mode along, with which the others cannot be mixed.
        stack.enter_context(mock.patch.object(optim, "deepcopy", lambda model: deepcopy(model, {id(mode): mode})))
        yield mode


def move_without_values(module: nn.Module, device: torch.device) -> None:
    """Replace the parameters and buffers of `module` by ones like them on `device`; within `pretended_gpu`."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = nn.Parameter(_like(parameter, device), parameter.requires_grad)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = _like(buffer, device)


def _like(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def count_step(step: TrainStep, batch: Batch) -> LaunchCounter:
    """Launches of one step of an ordinary training, the second of two; within `pretended_gpu`.

    Args:
        step, batch: on a device of that name; the step's methods are replaced by counted ones.
    """
    counter = LaunchCounter()
    within = counter.within

    def backward(terms: LossTerms, share: float = 1.0) -> None:
        loss = torch.stack(list(terms.values())).sum()
        backward_in_python(step.scaler.scale(loss if share == 1 else loss * share), counter)

    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (step, "forward", within("forward", step.forward)),
        (step, "loss", within("loss", step.loss)),
        (step, "backward", within("backward", backward)),
        (step, "_restore_statistics", within("statistics", step._restore_statistics)),
    ]
    if isinstance(step.criterion, Criterion):
        replaced.append((step.criterion, "assign", within("assignment", step.criterion.assign)))
    if step.ema:
        replaced.append((step.ema, "update", within("average", step.ema.update)))
    for owner, name, call in replaced:
        setattr(owner, name, call)
    with counter:
        for _ in range(2):  # the first has no gradients to use up, and copies the average
            counter.launches.clear()
            with counter.part("statistics"):
                terms = step.gradients(batch)
            with counter.part("optimizer"):
                step.update(torch.stack(list(terms.values())).sum())
    return counter


def empty_batch(batch_size: int, size: tuple[int, int], num_objects: int, device: torch.device) -> Batch:
    """A batch without values for `count_step`, as the loader lays it out."""
    images = torch.empty(batch_size, *size, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    shape = (batch_size, num_objects)
    return Batch(
        images=images,
        boxes=torch.empty(*shape, 4, device=device),
        labels=torch.empty(shape, dtype=torch.int64, device=device),
        ignore=torch.empty(shape, dtype=torch.bool, device=device),
        image_ids=list(range(batch_size)),
        original_sizes=[size] * batch_size,
        indices=list(range(batch_size)),
    )
