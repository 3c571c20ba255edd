"""A network on its way into another format."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import onnx
import torch
from torch import Tensor, nn

from ssdlite.export.formats.base import WeightPrecision
from ssdlite.export.metadata import ExportMetadata, FileForm, HeadKind, Selection, to_properties
from ssdlite.export.onnx.model import build_model, network_facts, trace_detector
from ssdlite.models.decode import Decoder, decode_output
from ssdlite.models.detector import Detector


@dataclass(frozen=True, eq=False)
class Conversion:
    """Network that is converted, with the options of the conversion."""

    detector: Detector
    head: HeadKind  # decoded or raw
    precision: WeightPrecision
    decoder: Decoder
    metadata: ExportMetadata

    def properties(self, *, channels_last: bool = False) -> dict[str, str]:
        """The metadata of the file; `channels_last` says that it takes (B, H, W, 3)."""
        decoder = self.decoder
        selection = Selection(
            *(decoder.score_threshold, decoder.iou_threshold),
            *(decoder.candidates_per_class, decoder.max_detections),
        )
        form = replace(self.form, input="float-nhwc" if channels_last else "float-nchw")
        return to_properties(self.metadata, form, network_facts(self.detector), selection)

    @property
    def form(self) -> FileForm:
        return FileForm(head=self.head, precision=self.precision)

    def onnx(self, batch: int | None = None) -> onnx.ModelProto:
        """ONNX model as `export_onnx` writes it."""
        traced = trace_detector(self.detector, batch=batch)
        form = FileForm(head=self.head)  # each format narrows the weights itself
        return build_model(traced, self.detector, form=form, decoder=self.decoder, metadata=self.metadata)

    def module(self, *, channels_last: bool = False) -> nn.Module:
        """Module from an image (1, 3, H, W), or (1, H, W, 3), to the outputs of the head; on the CPU, in
        float32."""
        detector = copy.deepcopy(self.detector).cpu().float()
        detector.to(memory_format=torch.contiguous_format)  # ExecuTorch takes no other
        return _HeadOutputs(detector, self.head, channels_last).eval()

    def example(self, *, channels_last: bool = False) -> Tensor:
        """An input of `module`."""
        height, width = self.detector.input_size
        return torch.zeros((1, height, width, 3) if channels_last else (1, 3, height, width))


class _HeadOutputs(nn.Module):
    def __init__(self, detector: Detector, head: HeadKind, channels_last: bool) -> None:
        super().__init__()
        self.detector, self.head, self.channels_last = detector, head, channels_last

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.channels_last:
            images = images.permute(0, 3, 1, 2)
        output = self.detector(images)
        if self.head == "raw":
            return output.logits, output.deltas
        return decode_output(output, self.detector.input_size)
