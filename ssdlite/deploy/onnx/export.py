"""From a network to one ONNX file that says what it is and has been proven to compute the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from ssdlite.deploy.metadata import (
    ExportMetadata,
    FileForm,
    Level,
    NetworkFacts,
    Precision,
    Selection,
    output_names,
    to_properties,
)
from ssdlite.deploy.onnx.graph import keep_outputs
from ssdlite.deploy.onnx.half import halve
from ssdlite.deploy.onnx.input_form import set_input_form
from ssdlite.deploy.onnx.nms import append_nms, limit_candidates
from ssdlite.deploy.onnx.opset import DEFAULT_OPSET, lower_ir_version, require_opset
from ssdlite.deploy.onnx.trace import trace_detector
from ssdlite.deploy.proof.prove import Evidence, Proof, prove_onnx
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.files import replacing
from ssdlite.model.decode import Decoder
from ssdlite.model.detector import Detector
from ssdlite.model.network import Network


@dataclass(frozen=True, eq=False)
class Calibration:
    """What 8 bits are chosen by; see `deploy.onnx.quantize`."""

    images: np.ndarray  # (N, 3, H, W) uint8 RGB, N > 0: what the network is trained on, without augmentation
    reduce_range: bool


def export_onnx(
    detector: Network,
    path: Path,
    *,
    decoder: Decoder,
    metadata: ExportMetadata,
    evidence: Evidence | None,
    form: FileForm | None = None,
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    calibration: Calibration | None = None,
) -> Proof | None:
    """Write `detector` to `path`, a single file, and prove it. `path` changes only if that succeeds.

    The file takes `images`, RGB pixels 0..255 at the input size, as `form.input` says (`deploy.onnx.input_form`),
    and gives, by `form.head`:

    nms         what `deploy.onnx.nms.append_nms` says, boxes in pixels of the input, clipped
    decoded     `boxes` (B, P, 4) xyxy, pixels of the input; `scores` (B, P, K) without background; for suppression
                as they are: boxes reach beyond the image, and what is chosen is yet to be clipped
    raw         `logits` (B, P, K + 1), background first; `deltas` (B, P, 4); the priors are in the metadata
    raw-levels  the same level by level, as the convolutions give them: `logits_0` (B, priors of a cell · (K + 1),
                h, w), ..., `deltas_0` (B, priors of a cell · 4, h, w), ...

    The raw heads are not for a network that finds corners: decoding its maps is not left to others.

    Args:
        decoder: how detections are chosen; in the metadata for every head, in the graph for `nms`.
        evidence: what the file has to stand against before it is written. None: no proof.
        batch: images of one run; None leaves it open.
        calibration: for `form.precision` int8, and only for that.

    Raises ConfigError for a head or an opset that cannot be written, CheckpointError if the exporter fails or the
    file does not compute what the network does, UserError if it cannot be written.
    """
    form = form or FileForm()
    require_form(detector, form)
    assert (calibration is not None) == (form.precision == "int8"), "int8 and calibration go together"
    traced = narrow(trace_detector(detector, batch=batch, opset=opset), form.precision, calibration)
    model = build_model(traced, detector, form=form, decoder=decoder, metadata=metadata)
    check = (lambda file: prove_onnx(file, detector, decoder, evidence)) if evidence else None
    return write_verified(model, path, check)


def require_form(detector: Network, form: FileForm) -> None:
    """Raises ConfigError if there is no such file of this network, or if a part of `form` would have no effect."""
    if form.head in ("raw", "raw-levels") and not isinstance(detector, Detector):
        raise ConfigError(f"a corner network has no file of --head {form.head}; choose --head decoded or nms.")
    if form.suppression != "op" and form.head != "nms":
        raise ConfigError(
            f"--nms {form.suppression} has no effect with --head {form.head}, which has no suppression."
        )


def narrow(
    traced: onnx.ModelProto, precision: Precision, calibration: Calibration | None = None
) -> onnx.ModelProto:
    """A copy of `trace_detector(...)` whose network computes in `precision`; what is decoded stays float32."""
    if precision == "int8":
        from ssdlite.deploy.onnx.quantize import quantize  # takes a second to import

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
    """A checked file from `trace_detector(detector)`, or what `narrow` made of it, which is left as it is."""
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
    """What a file of `detector` has to say about it."""
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


def write_verified(model: onnx.ModelProto, path: Path, check: Callable[[Path], Proof] | None) -> Proof | None:
    """Write `model` to a temporary file; rename it to `path` if it passes `check`. Raises as `export_onnx`."""
    data = model.SerializeToString()
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        proof = check(temporary) if check else None
        if proof is not None and not proof.passed:
            raise Disproved(path, data, proof)
    return proof


class Disproved(CheckpointError):
    """A file that was not written, because it does not do what the network does."""

    def __init__(self, path: Path, data: bytes, proof: Proof) -> None:
        super().__init__(
            f"{path} was not written, because onnxruntime does not give PyTorch's answers: {proof.summary}."
        )
        self.data = data
        self.proof = proof
