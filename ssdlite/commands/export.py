"""`ssdlite export-onnx`: a checkpoint as ONNX, proved on validation images."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args

from ssdlite.commands.arguments import require_export_options
from ssdlite.commands.screen import console
from ssdlite.deploy.metadata import FileForm, HeadKind, InputForm, Precision, SuppressionKind
from ssdlite.errors import ConfigError
from ssdlite.files import require_writable

if TYPE_CHECKING:
    from ssdlite.build import LoadedDetector
    from ssdlite.deploy.onnx.export import Calibration

logger = logging.getLogger(__name__)

Choice = TypeVar("Choice", bound=str)
Choices: TypeAlias = Any  # a Literal, which has no type of its own


def export_onnx(
    checkpoint: Path,
    overrides: Mapping[str, Any],
    *,
    output: Path | None,
    head: str = "nms",
    nms: str | None = None,
    input_form: str = "float-nchw",
    batch: str | None = None,
    size: str | None = None,
    opset: int = 18,
    precision: str = "fp32",
    calibration: Path | None = None,
    reduce_range: bool | None = None,
    verify: bool = True,
    tolerance: float | None = None,
    passing: bool = False,
) -> None:
    """Write `checkpoint` as ONNX; see `ssdlite export-onnx --help`.

    `passing` is a file that becomes part of another: a person reads how it compares, and not where it is.
    """
    form = FileForm(
        head=_choose("--head", head, HeadKind),
        suppression=_choose("--nms", nms or "op", SuppressionKind),
        input=_choose("--input", input_form, InputForm),
        precision=_choose("--precision", precision, Precision),
    )
    if nms and form.head != "nms":
        raise ConfigError(f"--nms has no effect with --head {head}, which has no suppression.")
    if precision != "int8" and (calibration is not None or reduce_range is not None):
        name = "--calibration" if calibration is not None else "--reduce-range"
        raise ConfigError(f"{name} has no effect with --precision {precision}; it is for int8.")
    if tolerance is not None and not verify:
        raise ConfigError("--tolerance has no effect with --no-verify.")
    batch_size = _batch_size(batch) if batch else 1 if head == "raw-levels" else None
    input_size = _size(size)
    output = output or checkpoint.with_suffix(".onnx")
    if output.suffix.lower() != ".onnx":
        raise ConfigError(f"--output ends with .onnx, which is how its files are known; {output} does not.")
    calibrates = precision == "int8" and calibration is None
    require_export_options(checkpoint, overrides, input_size, compares=verify, calibrates=calibrates)
    from ssdlite.deploy.onnx.opset import require_known

    require_known(opset)
    from ssdlite import build  # from here on with PyTorch
    from ssdlite.commands.evidence import gather_evidence
    from ssdlite.commands.proofs import show_proof
    from ssdlite.deploy.onnx.export import Disproved, require_form
    from ssdlite.deploy.onnx.export import export_onnx as write_onnx
    from ssdlite.deploy.proof.report import describe, failed_report_path, report_path, write_report

    loaded = build.load_detector(checkpoint, overrides, input_size)
    require_form(loaded.detector, form)
    require_writable(output)
    started = time.perf_counter()
    try:
        with console.status("Exporting and comparing, half a minute or so"):
            proof = write_onnx(
                loaded.detector,
                output,
                decoder=build.build_decoder(loaded.config.eval, loaded.detector.input_size),
                metadata=build.export_metadata(loaded.config, loaded.class_names, loaded.metrics),
                evidence=gather_evidence(loaded, tolerance) if verify else None,
                form=form,
                batch=batch_size,
                opset=opset,
                calibration=_calibration(loaded, calibration, reduce_range) if precision == "int8" else None,
            )
    except Disproved as error:
        write_report(failed_report_path(output), describe(error.data), error.proof)
        if precision == "int8" and reduce_range is not False and not passing:
            logger.warning("weights of 8 bits lose less than those of 7: --no-reduce-range, for VNNI")
        raise
    description = describe(output.read_bytes())
    write_report(report_path(output), description, proof)
    failed_report_path(output).unlink(missing_ok=True)
    if not passing:
        _show_file(output, description, time.perf_counter() - started)
    show_proof(proof, "--no-verify")


def _choose(option: str, text: str, choices: Choices) -> Any:
    known = get_args(choices)
    if text not in known:
        raise ConfigError(f"{option} is {', '.join(known)}, not '{text}'.")
    return text


def _batch_size(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise ConfigError(f"--batch is 'dynamic' or a number of images such as 1, not '{text}'.")
    return int(text)


def _size(text: str | None) -> tuple[int, int] | None:
    """HEIGHTxWIDTH in pixels."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not found:
        raise ConfigError(f"--size is HEIGHTxWIDTH in pixels such as 240x320, not '{text}'.")
    return int(found[1]), int(found[2])


def _calibration(loaded: LoadedDetector, path: Path | None, reduce_range: bool | None) -> Calibration:
    from ssdlite.commands.evidence import calibration_images
    from ssdlite.deploy.onnx.export import Calibration

    return Calibration(calibration_images(loaded, path), reduce_range is not False)


def _show_file(output: Path, description: dict[str, Any], seconds: float) -> None:
    """What a person wants to know of a file that was written."""
    from ssdlite.deploy.proof.report import report_path

    metadata = description["metadata"]
    size, batch = description["bytes"] / 1e6, description["inputs"]["images"]["shape"][0]
    batch = batch if isinstance(batch, int) else "dynamic"
    console.print(
        f"Wrote {output} ({size:.1f} MB, head {metadata['head']}, {metadata['precision']}, opset "
        f"{description['opset']}, batch {batch}) and {report_path(output).name} in {seconds:.0f} s"
    )
    missing = [f"{name} lacks {', '.join(lacks)}" for name, lacks in description["runtimes"].items() if lacks]
    able = [name for name, lacks in description["runtimes"].items() if not lacks]
    console.print(f"Its operators are in {', '.join(able)}" + (f"; {'; '.join(missing)}." if missing else "."))
