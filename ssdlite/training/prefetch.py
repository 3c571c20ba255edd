"""Batches on the device before they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from ssdlite.structures import Batch


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
