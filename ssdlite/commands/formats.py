"""`ssdlite export`: a checkpoint in the format of another runtime, proved on validation images."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ssdlite.commands.arguments import require_export_options
from ssdlite.commands.screen import console
from ssdlite.deploy.formats.document import document_path
from ssdlite.deploy.formats.kinds import FORMATS, FormatName, WeightPrecision, require_choice
from ssdlite.deploy.metadata import HeadKind
from ssdlite.errors import ConfigError
from ssdlite.files import require_writable


def export(
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
    kind = FORMATS[name]
    if tolerance is not None and not verify:
        raise ConfigError("--tolerance has no effect with --no-verify.")
    if tolerance is not None and not kind.runs_here:
        raise ConfigError(f"--tolerance has no effect for {name}, which does not run here.")
    output = output or checkpoint.with_name(checkpoint.stem + kind.name_suffix)
    chosen_head, chosen_precision = head or kind.heads[0], precision or kind.precisions[0]
    require_choice(name, output, chosen_head, chosen_precision)
    proves = verify and kind.runs_here
    require_export_options(checkpoint, overrides, compares=proves)
    from ssdlite import build  # from here on with PyTorch
    from ssdlite.commands.evidence import gather_evidence
    from ssdlite.commands.proofs import show_proof
    from ssdlite.deploy.formats.export import export_file, require_detector

    loaded = build.load_detector(checkpoint, overrides)
    require_detector(loaded.detector, name)
    require_writable(document_path(output))
    started = time.perf_counter()
    with console.status(f"Converting for {kind.program}, {'and comparing, ' if proves else ''}up to a minute"):
        proof = export_file(
            loaded.detector,
            output,
            name,
            decoder=build.build_decoder(loaded.config.eval, loaded.detector.input_size),
            metadata=build.export_metadata(loaded.config, loaded.class_names, loaded.metrics),
            evidence=gather_evidence(loaded, tolerance) if proves else None,
            head=cast(HeadKind, chosen_head),
            precision=cast(WeightPrecision, chosen_precision),
        )
    seconds = time.perf_counter() - started
    console.print(
        f"Wrote {output} for {kind.program} (head {chosen_head}, {chosen_precision}) and "
        f"{document_path(output).name} in {seconds:.0f} s"
    )
    show_proof(proof, f"{kind.program} does not run here: try it where it does" if verify else "--no-verify")


def _choose_format(format_name: str) -> FormatName:
    for name in FORMATS:
        if name == format_name:
            return name
    near = difflib.get_close_matches(format_name, FORMATS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    raise ConfigError(f"FORMAT is onnx, {', '.join(FORMATS)}, not '{format_name}'{hint}")
