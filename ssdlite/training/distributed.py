"""One training over several processes, started by torchrun; all of it is a no-op in a single process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import distributed, nn

from ssdlite.errors import ConfigError, UserError

Merged = TypeVar("Merged")


EXCHANGE_TIMEOUT = timedelta(minutes=30)
"""Time limit of an exchange between GPUs. Processes meet at every step, but the first may write to a slow disk
between two."""


WAITING_TIMEOUT = timedelta(days=1)
"""Time limit of waiting for the first process, which draws data, fits priors and computes AP alone, however large
the data.

A process that dies closes its connections and ends the waiting at once, so a long time costs nothing."""


_waiting: distributed.ProcessGroup | None = None  # between CPUs, for objects; the default group where there is none


def rank() -> int:
    """Return the number of this process among all that train; 0 for one alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes that train."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def local_processes() -> int:
    """Processes of this training on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if distributed.is_initialized() else 1


def launch_id() -> str:
    """Return the id of the torchrun launch, the same in all its restarts; "" without it."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def restarts() -> int:
    """Return how often torchrun has started these processes anew because one of them died (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_main() -> bool:
    """Return whether this process writes files and talks."""
    return rank() == 0


@contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """Join torchrun's processes (nccl on GPUs, gloo on CPUs) and give this one its device; leave at the end.

    Args:
        device: auto (a GPU if there is one), cpu, cuda, cuda:N or mps; with torchrun no number, because each
            process has a GPU of its own.

    Raises ConfigError for a device that is not there, or not for this process.
    """
    global _waiting
    chosen = choose_device(device)
    if "LOCAL_RANK" not in os.environ:  # set by torchrun, unlike WORLD_SIZE, which clusters set as well
        yield prepare_device(chosen)
        return
    if chosen.type == "cuda":
        chosen = _own_gpu(chosen)
    chosen = prepare_device(chosen)
    store, number, total = next(distributed.rendezvous("env://"))
    # torchrun's store outlives its restarts, and gloo would read the addresses of those that died.
    store = distributed.PrefixStore(f"attempt-{restarts()}", store)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=total, timeout=EXCHANGE_TIMEOUT)
    try:
        # nccl ends a process that has waited too long for another one, whatever that is doing.
        _waiting = cast(distributed.ProcessGroup, distributed.new_group(backend="gloo", timeout=WAITING_TIMEOUT))
        yield chosen
    except RuntimeError as error:  # DistBackendError is one
        if not any(word in str(error) for word in ("gloo", "Gloo", "NCCL")):
            raise
        raise UserError(
            f"process {rank()} lost the others ({' '.join(str(error).split())[:200]}); look for the one that died "
            "first. What was saved before is whole; torchrun's --max-restarts=N continues by itself."
        ) from None
    finally:
        _waiting = None
        distributed.destroy_process_group()


def _own_gpu(device: torch.device) -> torch.device:
    """The GPU of this process of torchrun's, for the name `cuda`. Raises ConfigError for another's, or none."""
    if device.index is not None:
        raise ConfigError(
            f"--device {device} has no effect with torchrun, which gives each process its own GPU; use --device "
            "cuda, and CUDA_VISIBLE_DEVICES to choose among them."
        )
    number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= gpus:
        raise ConfigError(
            f"process {number} of this machine, counted from 0, has no GPU: PyTorch sees {gpus}; give torchrun "
            f"--nproc-per-node={gpus}."
        )
    return torch.device("cuda", number)


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set in any process. Every process must ask at the same step."""
    if world_size() == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    distributed.all_reduce(votes)
    return bool(votes.item() > 0)


def merge_dicts(part: dict[Any, Any]) -> dict[Any, Any] | None:
    """The union of every process's dict in the main process; None in the others."""
    if world_size() == 1:
        return part
    parts: list[Any] | None = [None] * world_size() if is_main() else None
    distributed.gather_object(part, parts, group=_waiting)
    if parts is None:
        return None
    return {key: value for each in parts for key, value in each.items()}


def in_main_process(work: Callable[[], Merged]) -> Merged:
    """Do `work` in the main process and have its result, or its UserError, in every process."""
    outcome: Merged | UserError | None = None
    if is_main():
        try:
            outcome = work()
        except UserError as error:
            outcome = error
    outcome = broadcast(outcome)
    if isinstance(outcome, UserError):
        raise outcome
    return cast(Merged, outcome)


def synchronize_buffers(model: nn.Module) -> None:
    """Give every process the main one's buffers (BatchNorm's statistics follow each process's own images)."""
    if world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def broadcast(value: Merged) -> Merged:
    """The main process's value, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, group=_waiting)
    return box[0]


def prepare_device(device: torch.device) -> torch.device:
    """Make `device` the one that this process works on, with its number if it is a GPU; all that use one call it.

    On another GPU than the current one, streams, events and pinned memory that do not name it would belong to the
    first. What is float32 is computed as such: by default PyTorch rounds the factors of cuDNN's convolutions to
    TF32's ten bits.
    """
    device = number_device(device)
    if device.type != "cuda":
        return device
    torch.cuda.set_device(device)
    # Not by PyTorch 2.9's names, such as `cudnn.conv.fp32_precision`: to read these after them is an error, and
    # torch.compile does.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    return device


def number_device(device: torch.device) -> torch.device:
    """`device`, with the number of the current GPU where it is one without a number."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


def choose_device(name: str) -> torch.device:
    """The device of a name such as auto, cpu or cuda:1; ConfigError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}'; use auto, cpu, cuda, cuda:N or mps.") from None
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise ConfigError(f"device '{name}' is not there: PyTorch sees {torch.cuda.device_count()} CUDA GPUs.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not there: this PyTorch has no Metal support.")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device '{name}' is not supported; use auto, cpu, cuda, cuda:N or mps.")
    return device
