"""A Detector that answers batches with detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import nn

from ssdlite.models.decode import Decoder
from ssdlite.structures import Batch, Detections, DetectorOutput


class Started(NamedTuple):
    """A batch between the two stages of a TorchPredictor."""

    output: DetectorOutput
    original_sizes: Sequence[tuple[int, int]]
    computed: torch.cuda.Event | None  # reached when `output` is there; None where that is at once


@contextmanager
def working_on(device: torch.device) -> Iterator[None]:
    """Make a GPU the current one and float32 single precision, not TF32; afterwards all is as it was before.

    Around each call, because the program may be another's, with a device and a precision of its own.
    """
    if device.type != "cuda":
        yield
        return
    # By PyTorch 2.9's names, since those before raise where a program has used these. Within, nothing is compiled,
    # which would read those before.
    flags = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [flag.fp32_precision for flag in flags]
    with torch.cuda.device(device) if device.index is not None else nullcontext():  # else it is the current one
        try:
            for flag in flags:
                flag.fp32_precision = "ieee"
            yield
        finally:
            for flag, precision in zip(flags, before, strict=True):
                flag.fp32_precision = precision


class TorchPredictor:
    """Batch -> the Detections of each image, in pixels of the original images.

    A call is `finish(start(batch))`. On CUDA the next batch may be started in between: decoding, which asks the
    device for the number of candidates of every image, goes on beside that batch's network instead of before it.
    On a CPU both stages use all cores and the order makes no difference.

    Args:
        detector: module from images (B, 3, H, W) to DetectorOutput; it is put into evaluation mode.
        decoder: turns its output into detections.
        device: where the detector is.
        dtype: autocast type; float32 switches autocast off.
    """

    def __init__(
        self, detector: nn.Module, decoder: Decoder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.detector = detector.eval()
        self.decoder = decoder
        self.device = device
        self.dtype = dtype
        # Of high priority (-1): its many small kernels go before the next batch's large ones.
        self._decoding = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> list[Detections]:
        return self.finish(self.start(batch))

    @torch.inference_mode()
    def start(self, batch: Batch) -> Started:
        """Launch the network."""
        images = torch.as_tensor(batch.images)  # an array, where the batch has no targets
        is_cuda = self.device.type == "cuda"  # for others see `Batch.to`
        with working_on(self.device):
            images = images.to(self.device, non_blocking=is_cuda, memory_format=torch.channels_last)
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
                output = self.detector(images)
            computed = torch.cuda.current_stream(self.device).record_event() if self._decoding else None
        return Started(output, batch.original_sizes, computed)

    @torch.inference_mode()
    def finish(self, handle: Started) -> list[Detections]:
        """Decode what the network gives, and wait for it."""
        if self._decoding is None:
            return self.decoder(handle.output, handle.original_sizes)
        assert handle.computed is not None
        with working_on(self.device), torch.cuda.stream(self._decoding):
            self._decoding.wait_event(handle.computed)
            # Ends with copies to the host, so nothing reads `output` any more when its memory is given back.
            return self.decoder(handle.output, handle.original_sizes)
