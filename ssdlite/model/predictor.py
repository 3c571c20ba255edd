"""A Detector that answers batches with detections."""

from __future__ import annotations

import torch
from torch import nn

from ssdlite.model.decode import Decoder
from ssdlite.structures import Batch, Detections


class TorchPredictor:
    """Batch -> the Detections of each image, in pixels of the original images.

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

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> list[Detections]:
        images = batch.images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            output = self.detector(images)
        return self.decoder(output, batch.original_sizes)
