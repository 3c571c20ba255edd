"""PyTorch's own tables of operators: which dtypes a device has kernels for, and where a kernel is registered.

Two tables come with every PyTorch. OpInfo, by which PyTorch tests its operators, has the dtypes of each operator on
each device; native_functions.yaml says for which devices an operator has a kernel. Neither needs a GPU, nor a
PyTorch that was built for one. They are read in a process of their own, because `torch.testing._internal` locks the
global flags of `torch.backends`, and parts of OpInfo depend on the GPU that is there: the entries for CUDA are read
as on a GPU of `CAPABILITY`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

CAPABILITY = (8, 0)  # of the GPU that is asked about: the first with bf16 arithmetic

DEVICES = {"cuda": "CUDA", "mps": "MPS"}  # device type -> dispatch key in native_functions.yaml


class Entry(NamedTuple):
    """One operator, or one variant of it, in OpInfo."""

    dtypes: frozenset[str]  # of the inputs, such as "float32"
    backward: frozenset[str]  # for which the gradient works too


class Tables(NamedTuple):
    """PyTorch's own tables of its operators, by their names in ATen ("add", "_foreach_add")."""

    version: str
    infos: dict[
        str, dict[str, dict[str, Entry]]
    ]  # device type -> operator -> variant ("" for the plain one) -> dtypes
    kernels: dict[str, frozenset[str]]  # device type -> "name.overload" that has a kernel there


@cache
def read_tables() -> Tables:
    """Both tables, from another process; takes some 6 seconds, once.

    Raises ModuleNotFoundError where `expecttest` is missing, which PyTorch's own tests are written with.
    """
    child = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    if child.returncode:
        if "No module named 'expecttest'" in child.stderr:
            raise ModuleNotFoundError(
                "PyTorch's table of operators needs the package expecttest: pip install -e '.[dev]'",
                name="expecttest",
            )
        raise RuntimeError(f"PyTorch's table of operators cannot be read:\n{child.stderr[-2000:]}")
    content = json.loads(child.stdout)
    infos = {
        device: {
            name: {variant: Entry(*map(frozenset, entry)) for variant, entry in variants.items()}
            for name, variants in operators.items()
        }
        for device, operators in content["infos"].items()
    }
    kernels = {device: frozenset(names) for device, names in content["kernels"].items()}
    return Tables(content["version"], infos, kernels)


def _main() -> None:
    import torch

    content = {"version": torch.__version__, "infos": _read_infos(), "kernels": _read_kernels()}
    print(json.dumps(content))


def _read_infos() -> dict[str, Any]:
    """Device type -> operator -> variant -> (dtypes, dtypes of the gradient), as `Tables.infos`."""
    import torch
    from torch.testing._internal import common_cuda

    # Without a GPU these are false, and bf16 is left out of what matmul, addmm and others can do.
    for name in vars(common_cuda):
        if name.startswith("SM") and name.endswith("OrLater"):
            digits = name.removeprefix("SM").removesuffix("OrLater")
            setattr(common_cuda, name, (int(digits[:-1]), int(digits[-1])) <= CAPABILITY)
    from torch.testing._internal import common_methods_invocations as invocations

    def words(dtypes: Iterable[torch.dtype]) -> list[str]:
        return sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)

    found: dict[str, Any] = {device: {} for device in DEVICES}
    for info in _all_infos(invocations):
        names = {info.name.split(".")[-1], info.aten_name, *(alias.name.split(".")[-1] for alias in info.aliases)}
        for device, operators in found.items():
            entry = words(info.supported_dtypes(device)), words(info.supported_backward_dtypes(device))
            for name in names - {None, ""}:
                operators.setdefault(name, {}).setdefault(info.variant_test_name, entry)
    return found


def _all_infos(invocations: Any) -> Iterator[Any]:
    yield from invocations.op_db
    for name in sorted(vars(invocations)):
        if name.startswith("foreach_") and name.endswith("_op_db"):
            yield from getattr(invocations, name)


def _read_kernels() -> dict[str, list[str]]:
    """Device type -> the operators that have a kernel for it, or are made of others that have."""
    import torchgen
    from torchgen.gen import parse_native_yaml
    from torchgen.model import DispatchKey, NativeFunction, is_generic_dispatch_key

    folder = Path(torchgen.__file__).parent / "packaged/ATen/native"
    parsed = parse_native_yaml(str(folder / "native_functions.yaml"), str(folder / "tags.yaml"))
    generic = [key for key in parsed.backend_indices if is_generic_dispatch_key(key)]

    def has_kernel(function: NativeFunction, key: DispatchKey) -> bool:
        # A structured operator is computed by the kernel of its variant with out=.
        name = function.structured_delegate or function.func.name
        return any(name in parsed.backend_indices[each].index for each in (key, *generic))

    return {
        device: sorted(str(f.func.name) for f in parsed.native_functions if has_kernel(f, DispatchKey[key]))
        for device, key in DEVICES.items()
    }


if __name__ == "__main__":
    _main()
