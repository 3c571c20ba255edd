"""`ssdlite export-web`: a model as one HTML page."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdlite.commands.arguments import require_effect, require_export_options
from ssdlite.commands.screen import console
from ssdlite.deploy.onnx_predictor import OnnxPredictor
from ssdlite.deploy.web.page import build_page, require_page
from ssdlite.deploy.web.runtime import find_runtime
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.files import one_line, require_writable, write_text

PLAIN_STEMS = {"best", "last", "model"}
"""Names of files that say nothing: their folder's name does."""


def export_web(
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
    from ssdlite.commands.export import export_onnx  # here, because an exported file needs no torch
    from ssdlite.deploy.onnx.export import Disproved

    path = folder / checkpoint.with_suffix(".onnx").name
    try:
        export_onnx(checkpoint, overrides, output=path, verify=verify, passing=True)
    except Disproved as error:
        raise CheckpointError(
            f"no page of {checkpoint} was written, because onnxruntime does not give PyTorch's answers: "
            f"{error.proof.summary}; 'ssdlite export-onnx' tells more."
        ) from None
    return path


def _name(model: Path) -> str:
    return model.resolve().parent.name or model.stem if model.stem in PLAIN_STEMS else model.stem
