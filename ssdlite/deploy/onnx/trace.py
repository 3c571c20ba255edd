"""From a network in PyTorch to a graph of ONNX with every output that a file may want."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from torch import Tensor, nn

from ssdlite.deploy.metadata import CORNER_MAPS, OUTPUT_NAMES, output_names
from ssdlite.deploy.onnx.graph import fold_center_taps, strip_annotations
from ssdlite.deploy.onnx.opset import DEFAULT_OPSET, TRACED_OPSET, lower_opset, require_known, require_opset
from ssdlite.errors import CheckpointError
from ssdlite.model.decode import decode_output
from ssdlite.model.detector import Detector
from ssdlite.model.network import Network


def trace_detector(detector: Network, *, batch: int | None = None, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """The network with all outputs before suppression, in the order that data takes.

    `logits_0`, ..., `deltas_0`, ... of each level; `logits` and `deltas`; or the maps of corners; `boxes` and
    `scores`. Its input is `images` (B, 3, H, W) float32, B being `batch`, or open. Takes 10 seconds or so;
    `deploy.onnx.export.build_model` makes a file of any head from it.

    Raises ConfigError for an opset that cannot be written, CheckpointError if the exporter fails.
    """
    require_known(opset)
    assert batch is None or batch > 0, f"a batch of {batch}"
    model = _trace(detector, batch, max(opset, TRACED_OPSET))
    strip_annotations(model)
    lower_opset(model, opset)
    require_opset(model, opset)
    fold_center_taps(model)
    return model


def _trace(detector: Network, batch: int | None, opset: int) -> onnx.ModelProto:
    wrapper = _AllOutputs(copy.deepcopy(detector).cpu().float()).eval()  # eval of the whole, or the tracer misleads
    # A symbolic size of 1 would be taken for a constant.
    example = torch.zeros(batch or 2, 3, *detector.input_size)
    try:
        with _silence():
            program = torch.onnx.export(
                wrapper,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["images"],
                output_names=wrapper.names,
                dynamic_shapes=None if batch else {"images": {0: torch.export.Dim("batch")}},
            )
    except Exception as error:  # the exporter's own types are private, and its message is a log
        raise CheckpointError(
            f"PyTorch cannot export the network at opset {opset} ({_last_cause(error)}); "
            f"try --opset {DEFAULT_OPSET}."
        ) from error
    assert program is not None
    return program.model_proto


class _AllOutputs(nn.Module):
    def __init__(self, detector: Network) -> None:
        super().__init__()
        self.detector = detector
        inner: tuple[str, ...] = CORNER_MAPS
        if isinstance(detector, Detector):
            inner = output_names("raw-levels", len(detector.map_sizes)) + OUTPUT_NAMES["raw"]
        self.names = [*inner, *OUTPUT_NAMES["decoded"]]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if not isinstance(self.detector, Detector):
            corners = self.detector(images)
            decoded = decode_output(corners, self.detector.input_size)
            return *(getattr(corners, name) for name in CORNER_MAPS), *decoded
        logit_maps, delta_maps = self.detector.maps(images)
        output = self.detector.join(logit_maps, delta_maps)
        return (
            *logit_maps,
            *delta_maps,
            output.logits,
            output.deltas,
            *decode_output(output, self.detector.input_size),
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing on the screen or in the log: the exporter prints progress, advice and tracebacks it survives."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _last_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__
