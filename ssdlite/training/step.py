"""One training step, from a batch to better weights, and the copying of batches to the device ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, distributed, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ssdlite.errors import ConfigError
from ssdlite.structures import Batch, DetectorOutput, LossTerms
from ssdlite.training.distributed import world_size
from ssdlite.training.grouped import BufferSnapshot, NarrowConvolutions, NormCounters
from ssdlite.training.optim import WeightAverage


def on_device(
    batches: Iterable[Batch], device: torch.device, finish: Callable[[Batch], Batch] = lambda batch: batch
) -> Iterator[Batch]:
    """`batches` in their order, on `device`; on a GPU the next one travels while this one is worked on.

    The copies run beside the work if the loader has put the batches into pinned memory. `finish` is what is done
    with a batch that is there and asked for: it makes the images of drafts.
    """
    if device.type != "cuda":
        for batch in batches:
            yield finish(batch.to(device))
        return
    stream = torch.cuda.Stream(device)
    following: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = batch.to(device), stream.record_event()
        if following is not None:
            yield finish(_handed_over(*following, device))
        following = moved
    if following is not None:
        yield finish(_handed_over(*following, device))


def _handed_over(batch: Batch, copied: torch.cuda.Event, device: torch.device) -> Batch:
    """A batch that the current stream of `device` uses from when its copies are done."""
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)
    for tensor in (batch.images, batch.boxes, batch.labels, batch.ignore, batch.pending):
        if tensor is not None:
            tensor.record_stream(current)
    return batch


PER_IMAGE = Batch._fields.index("pending")  # the fields before it have an entry for each image


CompileMode: TypeAlias = Literal["none", "default", "reduce-overhead"]


@dataclass
class TrainStep:
    """Forward, loss, backward, optimizer, schedule and average of the weights, on one device.

    A step is `gradients` and then `update`; `forward`, `loss` and `backward` are parts of the first, for whoever
    times them. On a GPU nothing in it waits for a value.

    Args:
        dtype: autocast type of the network; losses are in float32.
        clip_norm: bound on the gradient's norm, 0 for none.
        accumulate: parts that a batch is computed in, one after the other, where memory is short. Their losses are
            averaged; BatchNorm sees each part by itself.
        compile_mode: of torch.compile, for the training alone: `model` stays as it is, so that whoever validates it
            may hold several outputs at once, where those of a CUDA graph are overwritten by the next.
    """

    model: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    ema: WeightAverage | None
    device: torch.device
    dtype: torch.dtype
    clip_norm: float
    accumulate: int = 1
    compile_mode: CompileMode = "none"

    def __post_init__(self) -> None:
        self.scaler = GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        self.network = self._wrap()
        self._before = BufferSnapshot(self.model)
        self._counters = NormCounters(self.model)
        # A compiled network casts within its own kernels; on a CPU a few convolutions cast in a way of their own.
        narrow = self.dtype is not torch.float32 and self.compile_mode == "none" and self.device.type != "cpu"
        self._narrow = NarrowConvolutions(self.model, self.dtype) if narrow else None

    def gradients(self, batch: Batch) -> LossTerms:
        """Forward, loss and backward of a batch on the device -> its loss terms, detached."""
        self._before.take()
        means: LossTerms = {}
        parts = split_batch(batch, self.accumulate)
        for number, part in enumerate(parts, start=1):
            share = len(part.images) / len(batch.images)
            with nullcontext() if number == len(parts) else self._without_exchange():
                terms = self.loss(self.forward(part), part)
                self.backward(terms, share)
            if len(parts) == 1:
                return {name: term.detach() for name, term in terms.items()}
            means = {name: means.get(name, 0) + term.detach() * share for name, term in terms.items()}
        return means

    def forward(self, batch: Batch) -> DetectorOutput:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with (
            self.autocast(),
            self._narrow.in_place() if self._narrow else nullcontext(),
            self._counters.together() if self.compile_mode == "none" else nullcontext(),
        ):
            try:
                return self.network(images)
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = " ".join(str(error).split())[:300]
                raise ConfigError(
                    f"train.compile={self.compile_mode} is not possible here ({reason}); it needs a C++ compiler "
                    "on a CPU, and Triton on a GPU. Set train.compile=none."
                ) from None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def loss(self, output: DetectorOutput, batch: Batch) -> LossTerms:
        return self.criterion(output, batch.boxes, batch.labels, batch.ignore)

    def backward(self, terms: LossTerms, share: float = 1.0) -> None:
        """Add the gradient of `share` of the sum of the terms."""
        loss = torch.stack(list(terms.values())).sum()
        self.scaler.scale(loss if share == 1 else loss * share).backward()

    def update(self, loss: Tensor) -> Tensor:
        """Use up the gradients of `loss`, but leave the weights as they are where it or a gradient is not finite.

        Returns:
            Whether they were left, a bool on the device, the same in all processes. What fp16's scaler leaves out
            because it scaled too far does not count.
        """
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if self.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        scaled = self.scaler.is_enabled()
        nonfinite = (~loss.isfinite() if scaled else ~(loss + norm).isfinite()).float()
        if world_size() > 1:
            distributed.all_reduce(nonfinite, distributed.ReduceOp.MAX)
        fused = bool(self.optimizer.defaults["fused"])
        if fused and not scaled:
            # The fused optimizer looks at it on the device, as it does for a scaler.
            self.optimizer.found_inf = nonfinite  # type: ignore[attr-defined]
        if fused or scaled or not nonfinite:  # the others, such as Metal's, have to be waited for
            self.scaler.step(self.optimizer)
        self.scaler.update()
        left_out = nonfinite.bool()
        self._restore_statistics(left_out)
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.ema:
            self.ema.update()
        return left_out

    def _restore_statistics(self, nonfinite: Tensor) -> None:
        """Take back the statistics that the norms gathered in a step that is left out, which may not be finite."""
        if self.device.type == "cpu" and not nonfinite:
            return
        self._before.restore(nonfinite)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, but for the average's weights, which every checkpoint
        ships."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "criterion": self.criterion.state_dict(),
            "num_averaged": self.ema.num_updates if self.ema else 0,
        }

    def load_state_dict(self, state: Mapping[str, Any], averaged: Mapping[str, Tensor]) -> None:
        """Raise RuntimeError, ValueError or KeyError where the state is of other objects."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.criterion.load_state_dict(state.get("criterion", {}))  # older runs had none with a state
        if self.ema:
            self.ema.module.load_state_dict(averaged)
            self.ema.num_updates = state["num_averaged"]

    def _wrap(self) -> nn.Module:
        network: nn.Module = self.model
        if self.compile_mode != "none":
            network = cast(nn.Module, torch.compile(network, mode=self.compile_mode))
        if world_size() == 1:
            return network
        return DistributedDataParallel(
            network,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            # Training reads no buffer that a step changes, and validation takes the main process's for all.
            broadcast_buffers=False,
            gradient_as_bucket_view=True,  # or each gradient is in memory twice, and copied there and back
        )

    def _without_exchange(self) -> AbstractContextManager[None]:
        """Keep several processes from averaging gradients before the last part of a step."""
        return self.network.no_sync() if isinstance(self.network, DistributedDataParallel) else nullcontext()


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """At most `parts` batches of nearly equal length that make up `batch`, in order."""
    if parts == 1:
        return [batch]
    parts = min(parts, len(batch.images))
    limits = [len(batch.images) * number // parts for number in range(parts + 1)]
    assert batch.pending is None, "drafts are finished before they are split"
    fields: list[Any] = list(batch[:PER_IMAGE])
    return [Batch(*(field[start:stop] for field in fields)) for start, stop in pairwise(limits)]
