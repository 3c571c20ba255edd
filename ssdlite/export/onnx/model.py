"""ONNX model of a network: traced with all outputs, then cut to a head, with its precision and metadata."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.export.metadata import (
    CORNER_MAPS,
    OUTPUT_NAMES,
    ExportMetadata,
    FileForm,
    Level,
    NetworkFacts,
    Precision,
    Selection,
    output_names,
    to_properties,
)
from ssdlite.export.onnx.graph import (
    DEFAULT_OPSET,
    TRACED_OPSET,
    fold_center_taps,
    keep_outputs,
    lower_ir_version,
    lower_opset,
    require_known,
    require_opset,
    set_input_form,
    strip_annotations,
)
from ssdlite.export.onnx.nms import append_nms, limit_candidates
from ssdlite.export.onnx.precision import halve
from ssdlite.models.decode import Decoder, decode_output
from ssdlite.models.detector import Detector
from ssdlite.models.network import Network


def trace_detector(detector: Network, *, batch: int | None = None, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Trace a network with all its outputs before suppression.

    The outputs are `logits_0`, ..., `deltas_0`, ... of each level, `logits` and `deltas`, or the corner maps; then
    `boxes` and `scores`. The input is `images` (B, 3, H, W) float32, where B is `batch`, or open if that is None.
    Tracing takes about 10 seconds; `build_model` makes a file of any head from the result.

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
    # The wrapper itself has to be in evaluation mode too, or the messages of the tracer are misleading.
    wrapper = _AllOutputs(copy.deepcopy(detector).cpu().float()).eval()
    # The tracer takes a symbolic size of 1 for a constant.
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
    except Exception as error:  # the exporter's exceptions are private types whose messages are logs
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
    """Suppress the exporter's progress, advice and the tracebacks of errors that it handles."""
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


@dataclass(frozen=True, eq=False)
class QuantizationData:
    """Calibration images and options of int8 quantisation; see `export.onnx.precision.quantize`."""

    images: np.ndarray  # (N, 3, H, W) uint8 RGB, N > 0: training images, without augmentation
    reduce_range: bool  # weights of 7 bits


def require_form(detector: Network, form: FileForm) -> None:
    """Raise ConfigError if the network has no file of this form, or if a part of `form` would have no effect."""
    if form.head in ("raw", "raw-levels") and not isinstance(detector, Detector):
        raise ConfigError(
            f"a corner network cannot be exported with --head {form.head}; choose --head decoded or nms."
        )
    if form.suppression != "op" and form.head != "nms":
        raise ConfigError(
            f"--nms {form.suppression} has no effect with --head {form.head}, which has no suppression."
        )


def narrow(
    traced: onnx.ModelProto, precision: Precision, calibration: QuantizationData | None = None
) -> onnx.ModelProto:
    """Return a copy of a traced model whose network computes in `precision`; decoding stays in float32.

    `calibration` is needed for int8.
    """
    if precision == "int8":
        from ssdlite.export.onnx.precision import quantize  # takes a second to import

        assert calibration is not None
        return quantize(traced, calibration.images, reduce_range=calibration.reduce_range)
    model = onnx.ModelProto()
    model.CopyFrom(traced)
    if precision == "fp16":
        halve(model)
    return model


def build_model(
    traced: onnx.ModelProto,
    detector: Network,
    *,
    decoder: Decoder,
    metadata: ExportMetadata,
    form: FileForm | None = None,
) -> onnx.ModelProto:
    """Build the file of a head from the result of `trace_detector` or `narrow`, which is not changed.

    The result has passed ONNX's checker. Raises ConfigError for a form that the network does not have.
    """
    form = form or FileForm()
    assert len(metadata.class_names) == detector.num_classes
    require_form(detector, form)
    opset = traced.opset_import[0].version
    facts = network_facts(detector)
    head = "decoded" if form.head == "nms" else form.head
    model = keep_outputs(traced, output_names(head, len(facts.levels)))
    selection = Selection(
        decoder.score_threshold, decoder.iou_threshold, decoder.candidates_per_class, decoder.max_detections
    )
    if form.head == "nms":
        num_priors = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        selection = limit_candidates(selection, form.suppression, num_priors, detector.num_classes)
        append_nms(model, selection, detector.input_size)
    set_input_form(model, form.input)
    model.graph.name = "ssdlite"
    model.producer_name = "ssdlite"
    model.producer_version = metadata.version
    require_opset(model, opset)
    lower_ir_version(model)
    helper.set_model_props(model, to_properties(metadata, form, facts, selection))
    onnx.checker.check_model(model, full_check=True)
    return model


def network_facts(detector: Network) -> NetworkFacts:
    """Return the facts about `detector` that its files hold."""
    alignment = detector.dialect.resize_alignment
    if not isinstance(detector, Detector):
        return NetworkFacts(detector.input_size, alignment)
    return NetworkFacts(
        detector.input_size,
        alignment,
        detector.score_activation,
        detector.priors.cpu().numpy(),
        tuple(
            Level(height, width, count // (height * width))
            for (height, width), count in zip(detector.map_sizes, detector.level_sizes, strict=True)
        ),
    )
