"""`ssdlite export-onnx`, `export` and `export-web`: a checkpoint as a file of another runtime, verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.commands.console import console

if TYPE_CHECKING:
    from ssdlite.export.verify.verify import VerificationReport
import difflib
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, get_args

from ssdlite.commands.arguments import require_export_options
from ssdlite.errors import ConfigError
from ssdlite.export.formats.registry import RUNTIMES, require_choice
from ssdlite.export.metadata import (
    FileForm,
    HeadKind,
    InputForm,
    Precision,
    SuppressionKind,
    WeightPrecision,
    sidecar_path,
)
from ssdlite.io import require_writable

if TYPE_CHECKING:
    from ssdlite.build.model import LoadedDetector
    from ssdlite.export.onnx.model import QuantizationData
import tempfile

from ssdlite.commands.arguments import require_effect
from ssdlite.errors import CheckpointError
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.web.page import build_page, find_runtime, require_page
from ssdlite.io import one_line, write_text


def print_verification(report: VerificationReport | None, reason: str) -> None:
    """Print it; `reason` says why there is none."""
    if report is None:
        console.print(f"Not compared with PyTorch ({reason}).")
        return
    verification, latency = report.verification, report.latency
    batches = " and ".join(map(str, verification.batch_sizes))
    images = f"{verification.num_images} {'validation images' if report.accuracy else 'drawn pictures'}"
    console.print(f"Agrees with PyTorch on {images}, at batch {batches}:")
    for difference in verification.differences:
        console.print(f"  {difference}")
    if report.accuracy:
        console.print(f"  {report.accuracy}")
    else:
        console.print("  AP was not compared, for want of validation images; data=PATH names them.")
    for name, found in (("this file", latency.file), ("PyTorch", latency.torch)):
        console.print(
            f"  {name}: {found.p50:.1f} ms (median), {found.p90:.1f} ms (90 %), batch {latency.batch_size}"
        )


def run_export(
    format_name: str,
    checkpoint: Path,
    overrides: Mapping[str, Any],
    *,
    output: Path | None,
    head: str | None,
    precision: str | None,
    verify: bool,
    tolerance: float | None,
) -> None:
    """Write `checkpoint` for another runtime; see `ssdlite export --help`."""
    name = _choose_format(format_name)
    runtime = RUNTIMES[name]
    if tolerance is not None and not verify:
        raise ConfigError("--tolerance has no effect with --no-verify.")
    if tolerance is not None and not runtime.runs_here:
        raise ConfigError(f"--tolerance has no effect for {name}, which does not run here.")
    output = output or checkpoint.with_name(checkpoint.stem + runtime.name_suffix)
    chosen_head, chosen_precision = head or runtime.heads[0], precision or runtime.precisions[0]
    require_choice(runtime, output, chosen_head, chosen_precision)
    verifies = verify and runtime.runs_here
    require_export_options(checkpoint, overrides, compares=verifies)
    from ssdlite.build.model import build_decoder, export_metadata, load_detector
    from ssdlite.commands.verification_images import gather_verification_images
    from ssdlite.export.exporters.formats import export_file, require_detector

    loaded = load_detector(checkpoint, overrides)
    require_detector(loaded.detector, name)
    require_writable(sidecar_path(output))
    started = time.perf_counter()
    with console.status(f"Converting for {runtime.program}, {'and comparing, ' if verifies else ''}up to a minute"):
        report = export_file(
            loaded.detector,
            output,
            name,
            decoder=build_decoder(loaded.config.eval, loaded.detector.input_size),
            metadata=export_metadata(loaded.config, loaded.class_names, loaded.metrics),
            verification_images=gather_verification_images(loaded, tolerance) if verifies else None,
            head=cast(HeadKind, chosen_head),
            precision=cast(WeightPrecision, chosen_precision),
        )
    seconds = time.perf_counter() - started
    console.print(
        f"Wrote {output} for {runtime.program} (head {chosen_head}, {chosen_precision}) and "
        f"{sidecar_path(output).name} in {seconds:.0f} s"
    )
    print_verification(
        report, f"{runtime.program} does not run here: try it where it does" if verify else "--no-verify"
    )


def _choose_format(format_name: str) -> str:
    for name in RUNTIMES:
        if name == format_name:
            return name
    near = difflib.get_close_matches(format_name, RUNTIMES, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    raise ConfigError(f"FORMAT is onnx, {', '.join(RUNTIMES)}, not '{format_name}'{hint}")


logger = logging.getLogger(__name__)


Choice = TypeVar("Choice", bound=str)


Choices: TypeAlias = Any  # a Literal, which has no type of its own


def run_export_onnx(
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
    from ssdlite.export.onnx.graph import require_known

    require_known(opset)
    from ssdlite.build.model import build_decoder, export_metadata, load_detector
    from ssdlite.commands.verification_images import gather_verification_images
    from ssdlite.export.exporters.onnx import VerificationError
    from ssdlite.export.exporters.onnx import export_onnx as write_onnx
    from ssdlite.export.onnx.model import require_form
    from ssdlite.export.verify.verify import describe, failed_report_path, report_path, write_report

    loaded = load_detector(checkpoint, overrides, input_size)
    require_form(loaded.detector, form)
    require_writable(output)
    started = time.perf_counter()
    try:
        with console.status("Exporting and comparing, half a minute or so"):
            report = write_onnx(
                loaded.detector,
                output,
                decoder=build_decoder(loaded.config.eval, loaded.detector.input_size),
                metadata=export_metadata(loaded.config, loaded.class_names, loaded.metrics),
                verification_images=gather_verification_images(loaded, tolerance) if verify else None,
                form=form,
                batch=batch_size,
                opset=opset,
                calibration=_calibration(loaded, calibration, reduce_range) if precision == "int8" else None,
            )
    except VerificationError as error:
        write_report(failed_report_path(output), describe(error.data), error.report)
        if precision == "int8" and reduce_range is not False and not passing:
            logger.warning("weights of 8 bits lose less than those of 7: --no-reduce-range, for VNNI")
        raise
    description = describe(output.read_bytes())
    write_report(report_path(output), description, report)
    failed_report_path(output).unlink(missing_ok=True)
    if not passing:
        _show_file(output, description, time.perf_counter() - started)
    print_verification(report, "--no-verify")


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


def _calibration(loaded: LoadedDetector, path: Path | None, reduce_range: bool | None) -> QuantizationData:
    from ssdlite.commands.verification_images import calibration_images
    from ssdlite.export.onnx.model import QuantizationData

    return QuantizationData(calibration_images(loaded, path), reduce_range is not False)


def _show_file(output: Path, description: dict[str, Any], seconds: float) -> None:
    """Print size, operators and latency of a file that was written."""
    from ssdlite.export.verify.verify import report_path

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


PLAIN_STEMS = {"best", "last", "model"}
"""Names of files that say nothing: their folder's name does."""


def run_export_web(
    model: Path,
    overrides: Mapping[str, Any],
    *,
    output: Path | None,
    runtime_dir: Path | None,
    title: str | None,
    verify: bool,
) -> None:
    """Write `model` as a page; see `ssdlite export-web --help`."""
    is_exported = model.suffix.lower() == ".onnx"
    if is_exported:
        require_effect(overrides, (), on=f"{model}, which is exported already")
        if not verify:
            raise ConfigError(f"--no-verify has no effect on {model}, which is exported already; leave it out.")
    else:
        require_export_options(model, overrides, compares=verify)
    runtime = find_runtime(runtime_dir)  # before the minute that exporting may take
    output = output or model.with_suffix(".html")
    require_writable(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output ends with .html, which is what browsers open; {output} does not.")
    title = one_line(title or _name(model), longest=100)
    with tempfile.TemporaryDirectory() as folder:
        exported = model if is_exported else _export(model, overrides, Path(folder), verify)
        predictor = OnnxPredictor(exported, threads=1)
        require_page(predictor, model)
        data = exported.read_bytes()
    write_text(output, build_page(data, predictor, runtime, title))
    console.print(
        f"Wrote {output} ({output.stat().st_size / 1e6:.1f} MB: a network of {len(data) / 1e6:.1f} MB and "
        f"ONNX Runtime Web {runtime.version}); open it in a browser."
    )


def _export(checkpoint: Path, overrides: Mapping[str, Any], folder: Path, verify: bool) -> Path:
    """The network of `checkpoint` as a file in `folder`, compared with PyTorch."""
    from ssdlite.export.exporters.onnx import VerificationError

    path = folder / checkpoint.with_suffix(".onnx").name
    try:
        run_export_onnx(checkpoint, overrides, output=path, verify=verify, passing=True)
    except VerificationError as error:
        raise CheckpointError(
            f"no page of {checkpoint} was written, because onnxruntime does not give PyTorch's outputs: "
            f"{error.report.summary}; 'ssdlite export-onnx' tells more."
        ) from None
    return path


def _name(model: Path) -> str:
    return model.resolve().parent.name or model.stem if model.stem in PLAIN_STEMS else model.stem
