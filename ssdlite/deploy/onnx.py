"""From a network to one ONNX file that says what it is and has been proven to compute the same."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from ssdlite.deploy.graph import fold_center_taps, keep_outputs, lower_ir_version, strip_annotations
from ssdlite.deploy.metadata import (
    CORNER_MAPS,
    OUTPUT_NAMES,
    ExportMetadata,
    HeadKind,
    Selection,
    to_properties,
)
from ssdlite.deploy.nms import append_nms
from ssdlite.deploy.verify import Verification, verify_onnx
from ssdlite.errors import CheckpointError, ConfigError, UserError
from ssdlite.model.decode import Decoder, decode_output
from ssdlite.model.detector import Detector
from ssdlite.model.network import Network

MIN_OPSET = 16
"""PyTorch writes opset 18 and above itself and converts down to 16; for 15 and less the converter of ONNX has no
rule (torch 2.15) and leaves 18 in place without an error."""

DEFAULT_OPSET = 18


def export_onnx(
    detector: Network,
    path: Path,
    *,
    decoder: Decoder,
    metadata: ExportMetadata,
    images: np.ndarray | None,
    head: HeadKind = "nms",
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
) -> Verification | None:
    """Write `detector` to `path`, a single file, and prove it on `images`. `path` changes only if that succeeds.

    The file takes `images` (B, 3, H, W) float32, RGB pixels 0..255 at the input size, and gives, by `head`:

    nms      what `deploy.nms.append_nms` says, boxes in pixels of the input, clipped
    decoded  `boxes` (B, P, 4) xyxy, pixels of the input; `scores` (B, P, K) without background;
             for suppression as they are: boxes reach beyond the image, and what is chosen is yet to be clipped
    raw      `logits` (B, P, K + 1), background first; `deltas` (B, P, 4); the priors are in the metadata. Not for a
             network that finds corners: decoding its maps is not left to others

    Args:
        decoder: how detections are chosen; in the metadata for every head, in the graph for `nms`.
        images: (N, 3, H, W) uint8 RGB, N > 0: what the network sees in earnest, a dozen or two. None: no proof.
        batch: images of one run; None leaves it open.

    Raises ConfigError for a head or an opset that cannot be written, CheckpointError if the exporter fails or the
    file does not compute what the network does, UserError if it cannot be written.
    """
    require_head(detector, head)
    traced = trace_detector(detector, batch=batch, opset=opset)
    model = build_model(traced, detector, head=head, decoder=decoder, metadata=metadata)
    return write_verified(model, path, detector, images)


def require_head(detector: Network, head: HeadKind) -> None:
    """Raises ConfigError if there is no file of `head` for this network."""
    if head == "raw" and not isinstance(detector, Detector):
        raise ConfigError("a corner network has no file of --head raw; choose --head decoded or nms.")


def trace_detector(detector: Network, *, batch: int | None = None, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """The network with all outputs before suppression: logits and deltas, or corner maps; boxes and scores.

    Takes 10 seconds or so; `build_model` makes a file of any head from it. Raises as `export_onnx`.
    """
    if opset < MIN_OPSET:
        raise ConfigError(f"opset {opset} cannot be written; choose {MIN_OPSET} or above, such as {DEFAULT_OPSET}.")
    assert batch is None or batch > 0, f"a batch of {batch}"
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
                output_names=[*wrapper.names, *OUTPUT_NAMES["decoded"]],
                dynamic_shapes=None if batch else {"images": {0: torch.export.Dim("batch")}},
            )
    except Exception as error:  # the exporter's own types are private, and its message is a log
        raise CheckpointError(
            f"PyTorch cannot export the network at opset {opset} ({_last_cause(error)}); "
            f"try --opset {DEFAULT_OPSET}."
        ) from error
    assert program is not None
    model = program.model_proto
    require_opset(model, opset)
    strip_annotations(model)
    lower_ir_version(model)
    fold_center_taps(model)
    return model


def require_opset(model: onnx.ModelProto, opset: int) -> None:
    """Raises ConfigError if `model` is not of `opset`: the exporter says so in its log only."""
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written != {"": opset}:
        raise ConfigError(
            f"the exporter cannot write opset {opset} (it gave {written.get('')}); try --opset {DEFAULT_OPSET}."
        )


def build_model(
    traced: onnx.ModelProto,
    detector: Network,
    *,
    head: HeadKind,
    decoder: Decoder,
    metadata: ExportMetadata,
) -> onnx.ModelProto:
    """A checked file of `head` from `trace_detector(detector)`, which is left as it is."""
    assert len(metadata.class_names) == detector.num_classes
    require_head(detector, head)
    selection = Selection(
        decoder.score_threshold, decoder.iou_threshold, decoder.candidates_per_class, decoder.max_detections
    )
    model = keep_outputs(traced, OUTPUT_NAMES["raw" if head == "raw" else "decoded"])
    if head == "nms":
        append_nms(model, selection, detector.input_size)
    model.graph.name = "ssdlite"
    model.producer_name = "ssdlite"
    model.producer_version = metadata.version
    properties = to_properties(
        metadata,
        head,
        detector.input_size,
        selection,
        detector.priors.cpu().numpy() if isinstance(detector, Detector) else None,
        resize_alignment=detector.dialect.resize_alignment,
        score_activation=detector.score_activation if isinstance(detector, Detector) else None,
    )
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_verified(
    model: onnx.ModelProto, path: Path, detector: nn.Module, images: np.ndarray | None
) -> Verification | None:
    """Write `model` to a temporary file; rename it to `path` if `verify_onnx` passes. Raises as `export_onnx`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(model.SerializeToString())
        verification = None if images is None else verify_onnx(temporary, detector, images)
        if verification is not None and not verification.passed:
            raise CheckpointError(
                f"{path} was not written, because onnxruntime does not give PyTorch's answers: "
                f"{verification.summary}."
            )
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return verification


class _AllOutputs(nn.Module):
    def __init__(self, detector: Network) -> None:
        super().__init__()
        self.detector = detector
        self.names = OUTPUT_NAMES["raw"] if isinstance(detector, Detector) else CORNER_MAPS

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        output = self.detector(images)
        return *(getattr(output, name) for name in self.names), *decode_output(output, self.detector.input_size)


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
