"""Export of a network to one ONNX file that says what it is and is verified to compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from ssdlite.errors import CheckpointError
from ssdlite.export.metadata import (
    ExportMetadata,
    FileForm,
)
from ssdlite.export.onnx.graph import DEFAULT_OPSET
from ssdlite.export.onnx.model import QuantizationData, build_model, narrow, require_form, trace_detector
from ssdlite.export.verify.verify import VerificationImages, VerificationReport, verify_onnx_export
from ssdlite.io import replacing
from ssdlite.models.decode import Decoder
from ssdlite.models.network import Network


def export_onnx(
    detector: Network,
    path: Path,
    *,
    decoder: Decoder,
    metadata: ExportMetadata,
    verification_images: VerificationImages | None,
    form: FileForm | None = None,
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    calibration: QuantizationData | None = None,
) -> VerificationReport | None:
    """Write `detector` to `path`, a single file, and verify it. `path` changes only if that succeeds.

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
        verification_images: images that the file is compared with PyTorch on before it is written. None: no
        verification. batch: images of one run; None leaves it open.
        calibration: for `form.precision` int8, and only for that.

    Raises ConfigError for a head or an opset that cannot be written, CheckpointError if the exporter fails or the
    file does not compute what the network does, UserError if it cannot be written.
    """
    form = form or FileForm()
    require_form(detector, form)
    assert (calibration is not None) == (form.precision == "int8"), "int8 and calibration go together"
    traced = narrow(trace_detector(detector, batch=batch, opset=opset), form.precision, calibration)
    model = build_model(traced, detector, form=form, decoder=decoder, metadata=metadata)
    check = (
        (lambda file: verify_onnx_export(file, detector, decoder, verification_images))
        if verification_images
        else None
    )
    return write_verified(model, path, check)


def write_verified(
    model: onnx.ModelProto, path: Path, check: Callable[[Path], VerificationReport] | None
) -> VerificationReport | None:
    """Write `model` to a temporary file; rename it to `path` if it passes `check`. Raises as `export_onnx`."""
    data = model.SerializeToString()
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        report = check(temporary) if check else None
        if report is not None and not report.passed:
            raise VerificationError(path, data, report)
    return report


class VerificationError(CheckpointError):
    """A file that was not written, because it does not do what the network does."""

    def __init__(self, path: Path, data: bytes, report: VerificationReport) -> None:
        super().__init__(
            f"{path} was not written, because onnxruntime does not give PyTorch's outputs: {report.summary}."
        )
        self.data = data
        self.report = report
