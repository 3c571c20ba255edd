"""Run a piece of work on tensors without values that say they lie on a GPU, and write down every operator.

Such tensors have shapes, dtypes and devices (PyTorch's FakeTensor), so that Python takes the branches that it takes
on a GPU. What needs a value gets one of no meaning: `item()` is 1 or False, and a mask has `CHOSEN` places.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).resolve().parents[2]
OURS = tuple(f"{ROOT / folder}/" for folder in ("ssdlite", "tests", "scripts"))
HARNESS = f"{Path(__file__).resolve().parent.relative_to(ROOT)}/"

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
CHOSEN = 3  # places that a mask is true at, boxes that suppression leaves

NOWHERE, ANYWHERE = "(?!)", ""  # patterns of where a value may be waited for

ANY_DEVICE = {
    *("_to_copy", "copy_", "_foreach_copy_"),  # these are what carries tensors from one to another
    *("lift_fresh", "detach", "alias", "prim::device", "set_", "record_stream"),
}
TAKES_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
TAKES_CPU_SCALARS = {
    *("masked_fill", "masked_fill_", "fill", "fill_"),
    *("_foreach_add", "_foreach_add_", "_foreach_mul", "_foreach_mul_", "_foreach_div", "_foreach_div_"),
}
"""Besides those that PyTorch calls pointwise. Stacking and joining do not, though FakeTensor accepts it."""


class Launch(NamedTuple):
    """An operator as it was called once, and by whom."""

    operator: str  # "aten::scatter_reduce"
    overload: str  # "two"; "" for the only one
    variant: str  # "amax" of scatter_reduce, "floor" of div; "" where there are none
    dtypes: tuple[str, ...]  # that it computes in, such as ("float32",)
    site: str  # "ssdlite/losses/matching.py:185 in _match_in_rounds"
    is_backward: bool  # of the operator that `site` called

    @property
    def name(self) -> str:
        """Name of the operator, without its name space."""
        return self.operator.split("::")[1]

    def __str__(self) -> str:
        shown = f"{self.name}.{self.overload}" if self.overload else self.name
        reduce = f"[{self.variant}]" if self.variant else ""
        return f"{shown}{reduce} ({', '.join(self.dtypes)})"


class Fault(NamedTuple):
    """Something that would fail, or wait for the device, on a real one."""

    kind: str  # kernel, unknown, wait, devices, generator, float64, pageable, error
    operator: str
    site: str
    reason: str

    def __str__(self) -> str:
        return f"{self.site}: {self.operator}: {self.reason}"


class Recording(NamedTuple):
    """Record of the operators that a piece of work called."""

    device: str  # cuda or mps
    launches: list[Launch]  # in their order
    faults: list[Fault]


def record(
    work: Callable[[torch.device], object],
    device: str = "cuda",
    may_wait: str = NOWHERE,
) -> Recording:
    """Do `work` with a device that is not there.

    Args:
        work: makes all its tensors itself, and takes the device.
        device: cuda or mps.
        may_wait: a pattern that is looked for in the names of the functions of ours that are running, the innermost
            first, such as "ssdlite.models.decode._select < ssdlite.models.decode.__call__"; where it is found,
            values may be asked for.
    """
    assert device in ("cuda", "mps")
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        warnings.simplefilter("ignore")  # that there is no GPU
        recorder = _Recorder(device, may_wait)
        with _pretended(device, recorder), recorder:
            try:
                work(torch.device(device))
            except Exception as error:
                recorder.fail(error)
    return Recording(device, recorder.launches, list(dict.fromkeys(recorder.faults)))


class _Recorder(TorchDispatchMode):
    def __init__(self, device: str, may_wait: str) -> None:
        super().__init__()
        self.device = device
        self.may_wait = re.compile(may_wait)
        self.launches: list[Launch] = []
        self.faults: list[Fault] = []
        self.inside = 0  # an operator is being computed: tensors of a pretended mps are those of cuda
        self.backward_site: str | None = None
        self._sites: dict[int, str] = {}  # number of a node of the graph -> the line that made it
        self._last = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace in ("prim", "profiler"):
            is_asked = func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor)
            return args[0].fake_device if is_asked else func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOSITE.name):
            with self:  # in inference mode operators come whole that are made of others
                return func._op_dk(COMPOSITE, *args, **kwargs)
        self.inside += 1
        try:
            return self._compute(func, args, kwargs)
        finally:
            self.inside -= 1

    def _compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self.device == "mps":
            args, kwargs = tree_map_only(torch.device, _as_cuda, (args, kwargs))
        name, stack = _name(func), _own_frames()
        site = self.backward_site or (_place(stack[0]) if stack else "")
        is_harness = not site or site.startswith(HARNESS)
        self._last = name
        if not self.backward_site:
            self._sites[torch.autograd._get_sequence_nr() - 1] = site

        def complain(kind: str, reason: str) -> None:
            if not is_harness:
                self.faults.append(Fault(kind, name, site, reason))

        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in tensors if tensor.device.type != "cpu"]
        on_cpu = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        if on_device and on_cpu and name not in ANY_DEVICE:
            if name in TAKES_INDICES and args[0].device.type != "cpu":
                # Indices may lie on the CPU, and are copied from there.
                if not self._waits_are_allowed(stack) and any(tensor.ndim for tensor in on_cpu):
                    complain("wait", "copies indices from the CPU and waits until they are there")
            elif any(tensor.ndim for tensor in on_cpu) or not {torch.Tag.pointwise}.intersection(
                func.tags
            ) | TAKES_CPU_SCALARS.intersection({name}):
                complain("devices", f"takes tensors of {self.device} and of the CPU")
            args, kwargs = tree_map_only(Tensor, _onto_device, (args, kwargs))
        reason = self._reason_to_wait(func, name, args, kwargs, on_device)
        if reason and not self._waits_are_allowed(stack):
            complain("wait", reason)
        result, is_known = _with_made_up_values(func, name, args, kwargs)
        if not is_known:
            result = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        there = on_device + [tensor for tensor in results if tensor.device.type != "cpu"]
        generator = kwargs.get("generator")
        if there and generator is not None and _device_of(generator) == "cpu":
            complain("generator", f"draws on {self.device} from a generator of the CPU")
        if there and not is_harness:
            self.launches.append(_describe(func, name, args, kwargs, results, site, self.backward_site is not None))
            if self.device == "mps":
                self._check_mps(name, there, args, kwargs, complain)
        return result

    def _check_mps(
        self, name: str, there: list[Tensor], args: Any, kwargs: Any, complain: Callable[..., None]
    ) -> None:
        if name.startswith("_fused_") and any(kwargs.get(key) is not None for key in ("grad_scale", "found_inf")):
            complain("kernel", "its Metal kernel refuses found_inf and grad_scale")
        if any(tensor.dtype in (torch.float64, torch.complex128) for tensor in there):
            complain("float64", "float64 does not exist on MPS")
        is_async = kwargs.get("non_blocking", name == "copy_" and len(args) > 2 and args[2])
        source = args[1] if name == "copy_" else args[0] if args else None
        if is_async and isinstance(source, Tensor) and source.device.type == "cpu":
            complain(
                "pageable", "copies to MPS without waiting from memory that is not pinned and may be used anew"
            )

    def _waits_are_allowed(self, stack: list[FrameType]) -> bool:
        return self.may_wait.search(" < ".join(map(_dotted_name, stack))) is not None

    def _reason_to_wait(self, func: Any, name: str, args: Any, kwargs: Any, on_device: list[Tensor]) -> str:
        """Why it would stall the device, "" if it does not."""
        if on_device:
            if torch.Tag.data_dependent_output in func.tags or name in ("_local_scalar_dense", "equal"):
                return "asks for a value and waits for the device"
            if name in TAKES_INDICES:
                is_masked = _has_mask(args[1])
                return "indexes with a mask, counts its places and waits for the device" if is_masked else ""
            if torch.Tag.dynamic_output_shape in func.tags or name == "nms":
                return "asks how many there are and waits for the device"
        if name == "_to_copy" and not kwargs.get("non_blocking"):
            target = kwargs.get("device")
            if target is not None and target.type != args[0].device.type:
                return _copy_reason(target.type)
        if name == "copy_" and not (len(args) > 2 and args[2]) and args[0].device.type != args[1].device.type:
            return _copy_reason(args[0].device.type)
        return ""

    def fail(self, error: Exception) -> None:
        """Write down what ended the work."""
        frames = []
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename.startswith(OURS):
                frames.append((trace.tb_frame, trace.tb_lineno))
            trace = trace.tb_next
        own = [each for each in frames if not _place(*each).startswith(HARNESS)] or frames
        site = self.backward_site or (_place(*own[-1]) if own else "")
        self.faults.append(
            Fault("error", self._last, site, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        )

    def backward(self, tensor: Tensor, gradient: Tensor | None = None, **_: Any) -> None:
        """`Tensor.backward`, node by node: PyTorch's engine needs a thread of the device, which is not there.

        Inputs of a node are numbered before it is, so that each has all its gradients when its turn comes.
        """
        assert tensor.grad_fn is not None, "there is nothing to differentiate"
        waiting: dict[Any, list[Tensor | None]] = {}
        leaves: dict[Any, list[Tensor | None]] = {}
        caller = _place(_own_frames()[0])
        with torch.no_grad():
            waiting[tensor.grad_fn] = [None] * len(tensor.grad_fn._input_metadata)
            waiting[tensor.grad_fn][tensor.output_nr] = torch.ones_like(tensor) if gradient is None else gradient
            while waiting or leaves:
                nodes = waiting or leaves  # the leaves, which add to the gradients of parameters, come last
                node = max(nodes, key=lambda node: node._sequence_nr())
                self.backward_site = self._sites.get(node._sequence_nr(), caller)
                try:
                    results = self._call(node, nodes.pop(node))
                    for result, (following, number) in zip(results, node.next_functions, strict=False):
                        if following is None or result is None:
                            continue
                        nodes = leaves if following.name().endswith("AccumulateGrad") else waiting
                        inputs = nodes.setdefault(following, [None] * len(following._input_metadata))
                        before = inputs[number]
                        inputs[number] = result if before is None else before + result
                finally:
                    self.backward_site = None

    def _call(self, node: Any, gradients: list[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients of a node's inputs from those of its outputs, fitted to them as the engine does."""
        fitted = [
            gradient
            if gradient is None
            else (gradient if gradient.shape == like.shape else gradient.sum_to_size(like.shape)).to(like.dtype)
            for gradient, like in zip(gradients, node._input_metadata, strict=True)
        ]
        is_ours = hasattr(node, "needs_input_grad")  # of a torch.autograd.Function
        results = node.apply(*fitted) if is_ours else node(*fitted)
        results = results if isinstance(results, tuple) else (results,)
        if not is_ours:
            return results
        # It answers for all its arguments, though only tensors have a place among the following nodes.
        wanted = (result for result, needed in zip(results, node.needs_input_grad, strict=True) if needed)
        return [None if following is None else next(wanted) for following, _ in node.next_functions]


class _Generator(torch.Generator):
    """Generator of the CPU that claims to be of the device it was asked for."""

    asked: ClassVar[dict[int, torch.device]] = {}  # by the address of what PyTorch hands around

    def __new__(cls, device: Any = "cpu") -> _Generator:
        generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        cls.asked[_address(generator)] = torch.device(device)
        return generator

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.asked[_address(self)]


class _Stream:
    """Stand-in for the streams and events of `torch.cuda`, which does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record_event(self, *_: Any) -> _Stream:
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@contextmanager
def _pretended(device: str, recorder: _Recorder) -> Iterator[None]:
    """Let PyTorch behave as with a GPU inside the block."""
    true_device = FakeTensor.device

    def shown_device(tensor: FakeTensor) -> torch.device:
        found = true_device.fget(tensor)  # type: ignore[attr-defined]
        return torch.device("mps", 0) if found.type == "cuda" and not recorder.inside else found

    def make_tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        return torch_tensor(data, device=None if device is None else _as_cuda(torch.device(device)), **options)

    torch_tensor = torch.tensor
    with ExitStack() as stack:

        def put(owner: Any, name: str, value: Any, **options: Any) -> None:
            stack.enter_context(patch.object(owner, name, value, **options))

        put(torch.Tensor, "backward", lambda tensor, *args, **options: recorder.backward(tensor, *args, **options))
        put(torch, "Generator", _Generator)
        put(FakeTensor, "numpy", _as_array, create=True)
        put(FakeTensor, "tolist", _as_list, create=True)
        put(FakeTensor, "record_stream", lambda *_: None, create=True)
        put(FakeTensor, "__deepcopy__", _copy, create=True)
        put(_foreach_utils, "_foreach_supported_types", [*_foreach_utils._foreach_supported_types, FakeTensor])
        put(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        put(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        for name in ("Stream", "Event", "current_stream", "default_stream"):
            put(torch.cuda, name, _Stream)
        put(torch.cuda, "stream", lambda _: nullcontext())
        for owner, name in ((torch.cuda, "synchronize"), (torch.cuda, "set_device"), (torch.mps, "synchronize")):
            put(owner, name, lambda *_: None)
        if device == "mps":
            # PyTorch aborts where tensors of mps take part in autograd on a machine that has none, so they are
            # those of cuda underneath and say mps when they are asked.
            put(FakeTensor, "device", property(shown_device))
            put(FakeTensor, "to", _move, create=True)
            put(torch, "tensor", make_tensor)
        yield


def _move(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    options = {name: _moved(option) for name, option in options.items()}
    moved: Tensor = Tensor.to(tensor, *map(_moved, args), **options)
    return moved


def _moved(option: Any) -> Any:
    return _as_cuda(torch.device(option)) if isinstance(option, str | torch.device) else option


def _as_cuda(device: torch.device) -> torch.device:
    return torch.device("cuda", device.index) if device.type == "mps" else device


def _onto_device(tensor: Tensor) -> Tensor:
    there = tensor.device.type != "cpu"
    return tensor if there else torch.ops.aten._to_copy.default(tensor, device=torch.device("cuda", 0))


def _copy_reason(target: str) -> str:
    if target == "cpu":
        return "copies to the CPU and waits for the device"
    return "copies from memory of the CPU that is not pinned, or waits for the copy: non_blocking is not set"


def _address(generator: torch.Generator) -> int:
    return generator._cdata  # type: ignore[attr-defined]


def _device_of(generator: torch.Generator) -> str:
    asked = _Generator.asked.get(_address(generator))
    return (asked or generator.device).type


def _as_array(tensor: FakeTensor, **_: Any) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert {tensor.device} device type tensor to numpy")
    return np.ones(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _as_list(tensor: FakeTensor) -> Any:
    return getattr(tensor, "made_up", None) or tensor.cpu().numpy().tolist()


def _copy(tensor: FakeTensor, memo: dict[int, Any]) -> Tensor:
    copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        copied = nn.Parameter(copied, tensor.requires_grad)
    memo[id(tensor)] = copied
    return copied


def _name(func: Any) -> str:
    space, name = func._schema.name.split("::")
    return f"{space}::{name}" if space == "prim" else name


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _with_made_up_values(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, bool]:
    """The result of an operator that needs values, and whether it is such a one."""
    if name == "_local_scalar_dense":
        dtype = args[0].dtype
        return (False if dtype is torch.bool else 1.0 if dtype.is_floating_point else 1), True
    if name == "equal":
        return False, True
    if name.startswith("_fused_"):  # has no form without values; what it changes in place has none either
        return None, True
    if name == "nonzero":
        return args[0].new_empty((CHOSEN, args[0].ndim), dtype=torch.int64), True
    if name == "masked_select":
        return args[0].new_empty(CHOSEN), True
    if name == "bincount":
        values = _by_name(func, args, kwargs)
        result = args[0].new_empty(max(CHOSEN, values.get("minlength", 0)), dtype=torch.int64)
        result.made_up = [args[0].numel(), *[0] * (len(result) - 1)]  # their sum has to be right
        return result, True
    if name == "nms":
        return args[0].new_empty(CHOSEN, dtype=torch.int64), True
    if name in TAKES_INDICES and _has_mask(args[1]):
        indices: list[Tensor | None] = []
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                indices += [index.new_empty(CHOSEN, dtype=torch.int64) for _ in range(index.ndim)]
            else:
                indices.append(index)
        return func(args[0], indices, *args[2:], **kwargs), True
    return None, False


def _describe(
    func: Any, name: str, args: Any, kwargs: Any, results: list[Tensor], site: str, is_backward: bool
) -> Launch:
    values = _by_name(func, args, kwargs)
    variant = str(values.get("reduce", values.get("rounding_mode") or ""))
    return Launch(
        func._schema.name,
        func._schema.overload_name,
        variant if variant not in ("True", "False") else "",
        tuple(str(dtype).removeprefix("torch.") for dtype in _dtypes(func, name, args, values, results)),
        site,
        is_backward,
    )


def _by_name(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    return {**dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)), **kwargs}


def _dtypes(func: Any, name: str, args: Any, values: Any, results: list[Tensor]) -> list[torch.dtype]:
    """Return the types that an operator computes in, as OpInfo counts them: those of its inputs, brought to a
    common one."""
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    if not tensors:  # it makes something out of nothing
        return list(dict.fromkeys(tensor.dtype for tensor in results))
    if name == "where":
        tensors = tensors[1:]
    if name in ("masked_fill", "masked_fill_") or not (
        torch.Tag.pointwise in func.tags or name.startswith("_foreach")
    ):
        first = next(leaf for leaf in args if isinstance(leaf, Tensor | list | tuple))
        return sorted({leaf.dtype for leaf in tree_leaves(first) if isinstance(leaf, Tensor)}, key=str)
    if name.startswith("_foreach"):
        lists = [list(each) for each in args if isinstance(each, list | tuple) and isinstance(each[0], Tensor)]
        groups = {tuple(tensor.dtype for tensor in group): group for group in zip(*lists, strict=False)}
        return sorted({_common(group) for group in groups.values()}, key=str)
    return [_common([leaf for leaf in args if isinstance(leaf, Tensor | int | float)])]


def _common(operands: Sequence[Any]) -> torch.dtype:
    """The dtype that a pointwise operator brings its operands to: tensors count, then those of no axis, numbers."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    common = _promoted([tensor.dtype for tensor in tensors if tensor.ndim])
    for weaker in (
        [tensor.dtype for tensor in tensors if not tensor.ndim],
        [_dtype_of(number) for number in operands if not isinstance(number, Tensor)],
    ):
        other = _promoted(weaker)
        if common is None or (other is not None and _kind(other) > _kind(common)):
            common = other
    assert common is not None
    return common


def _promoted(dtypes: Sequence[torch.dtype]) -> torch.dtype | None:
    return reduce(torch.promote_types, dtypes) if dtypes else None


def _kind(dtype: torch.dtype) -> int:
    return 0 if dtype is torch.bool else 1 if not dtype.is_floating_point else 2


def _dtype_of(number: float) -> torch.dtype:
    return torch.bool if isinstance(number, bool) else torch.int64 if isinstance(number, int) else torch.float32


def _own_frames() -> list[FrameType]:
    """The frames of this repository that are running, the innermost first, without those of this module."""
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and file.startswith(OURS):
            frames.append(frame)
        frame = frame.f_back
    return frames


def _dotted_name(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename).relative_to(ROOT).with_suffix("")
    return ".".join((*path.parts, frame.f_code.co_name))


def _place(frame: FrameType, line: int | None = None) -> str:
    file = Path(frame.f_code.co_filename).relative_to(ROOT)
    return f"{file}:{line or frame.f_lineno} in {frame.f_code.co_name}"
