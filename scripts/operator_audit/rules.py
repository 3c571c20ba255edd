"""Compare what a piece of work launches with PyTorch's tables of what a device has kernels for.

    audit(work, "cuda") -> Audit(launches, faults)

An operator is good if a kernel is registered for the device, and its dtypes are among those that OpInfo has for it.
What OpInfo does not know is listed in `REVIEWED`, each with the reason why it is good; nothing else is let through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .recorder import NOWHERE, Fault, Launch, record
from .tables import Tables, read_tables

FLOATS = ("float32", "float64", "float16", "bfloat16")
NUMBERS = (*FLOATS, "int64", "int32", "int16", "int8", "uint8", "bool")

ALIASES = {
    "_log_softmax": ("log_softmax", False),
    "_log_softmax_backward_data": ("log_softmax", True),
    "_softmax": ("softmax", False),
    "_softmax_backward_data": ("softmax", True),
    "_native_batch_norm_legit_no_training": ("_native_batch_norm_legit", False),
    "native_batch_norm_backward": ("native_batch_norm", True),
    "_unsafe_index": ("__getitem__", False),
    "_unsafe_view": ("view", False),
    "convolution": ("conv2d", False),
    "convolution_backward": ("conv2d", True),
    "copy": ("to", False),
    "_to_copy": ("to", False),
    "hardtanh_backward": ("hardtanh", True),
    "index": ("__getitem__", False),
    "_local_scalar_dense": ("item", False),
    "max_pool2d_with_indices": ("max_pool2d", False),
    "nll_loss_forward": ("nll_loss", False),
    "nll_loss_backward": ("nll_loss", True),
    "rand": ("uniform", False),
    "select_backward": ("select", True),
    "sigmoid_backward": ("sigmoid", True),
    "slice_backward": ("slice", True),
    "smooth_l1_loss_backward": ("smooth_l1_loss", True),
    "softplus_backward": ("softplus", True),
    "threshold_backward": ("relu", True),
    "upsample_nearest2d": ("upsample_nearest", False),
    "upsample_nearest2d_backward": ("upsample_nearest", True),
    "zero": ("fill", False),
}
"""Operators that OpInfo tests under another name, without trailing underscore, and whether as its gradient."""

REVIEWED = {
    "_amp_foreach_non_finite_check_and_unscale": (
        ("float32", "float64", "float16"),
        "AmpKernels.cu: AT_DISPATCH_FLOATING_TYPES_AND_HALF over the gradients; Amp.mm",
    ),
    "_amp_update_scale": (("float32",), "AmpKernels.cu checks that scale and found_inf are float; Amp.mm"),
    "_fused_sgd": (
        FLOATS,
        "FusedSgdKernel.cu: AT_DISPATCH_FLOATING_TYPES_AND2(kHalf, kBFloat16); FusedSgdKernel.mm",
    ),
    "cudnn_batch_norm": (FLOATS, "cuDNN's; PyTorch calls it only for what cuDNN can do"),
    "cudnn_batch_norm_backward": (FLOATS, "as cudnn_batch_norm"),
    "nms": (("float32", "float64", "float16"), "torchvision's nms_kernel.cu: AT_DISPATCH_FLOATING_TYPES_AND_HALF"),
}
"""Operators that OpInfo does not know, without trailing underscore: the dtypes that have kernels on a GPU, and
where PyTorch's source says so."""

NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("detach", "detach_", "lift_fresh", "alias"),
}
"""They reserve memory or look at it in another way."""

ON_CUDA_ONLY = {"cudnn_batch_norm", "cudnn_batch_norm_backward"}
"""Operators that PyTorch chooses on CUDA, where another operator would be chosen on MPS that computes the same."""


class Audit(NamedTuple):
    """The operators of a piece of work, and what is wrong with it."""

    launches: list[Launch]  # in their order
    faults: list[Fault]


def audit(
    work: Callable[[torch.device], object],
    device: str = "cuda",
    may_wait: str = NOWHERE,
) -> Audit:
    """Do `work` with a device that is not there, see `recorder.record`, and look up every operator."""
    recording = record(work, device, may_wait)
    tables = read_tables()
    faults = list(recording.faults)
    for launch in dict.fromkeys(recording.launches):
        kind, reason = look_up(launch, device, tables)
        if reason:
            faults.append(Fault(kind, str(launch), launch.site, reason))
    return Audit(recording.launches, list(dict.fromkeys(faults)))


def look_up(launch: Launch, device: str, tables: Tables) -> tuple[str, str]:
    """Kind and reason of what is wrong with a launch; ("", "") where nothing is."""
    space, name = launch.operator.split("::")
    if name in NO_KERNEL:
        return "", ""
    full = f"{name}.{launch.overload}" if launch.overload else name
    if space == "aten":
        is_registered = full in tables.kernels[device]
    else:  # another library's, of which the installed build tells
        is_registered = torch._C._dispatch_has_kernel_for_dispatch_key(launch.operator, device.upper())
    if not is_registered and not (device == "mps" and name in ON_CUDA_ONLY | {"nms"}):
        return "kernel", f"no kernel is registered for {device}"
    known = known_dtypes(launch, device, tables)
    if known is None:
        return "unknown", "is in neither table: look up its kernel and list it in rules.REVIEWED"
    missing = [dtype for dtype in launch.dtypes if dtype not in known]
    if missing:
        return "kernel", f"has no kernel for {', '.join(missing)} on {device} (PyTorch {tables.version})"
    return "", ""


def known_dtypes(launch: Launch, device: str, tables: Tables) -> frozenset[str] | None:
    """The dtypes that an operator has kernels for; None if no table has the operator."""
    name = launch.name
    plain = name if name.endswith("__") else name.removesuffix("_")  # OpInfo has in-place ones with the others
    if plain in REVIEWED:
        dtypes = frozenset(REVIEWED[plain][0])
        return dtypes - {"float64"} if device == "mps" else dtypes
    alias, is_gradient = ALIASES.get(plain, (plain, False))
    variants = tables.infos[device].get(alias)
    if variants is None:
        return None
    if launch.variant:
        found = [entry for variant, entry in variants.items() if variant.split("_")[0] == launch.variant]
        if not found:
            return None
    else:
        found = [variants[""]] if "" in variants else list(variants.values())
    # Several variants without a plain one differ in what is asked, not in the kernels.
    return frozenset().union(*(entry.backward if is_gradient else entry.dtypes for entry in found))
