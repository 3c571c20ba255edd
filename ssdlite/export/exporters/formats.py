"""Export of a network for another runtime, and its verification before the file gets its name."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssdlite.errors import CheckpointError, ConfigError, UserError
from ssdlite.export.formats.base import versions_of
from ssdlite.export.formats.conversion import Conversion
from ssdlite.export.formats.registry import RUNTIMES, open_file, require_choice
from ssdlite.export.metadata import ExportMetadata, HeadKind, WeightPrecision, sidecar_path, write_sidecar
from ssdlite.export.verify.verify import VerificationImages, VerificationReport, verify_export
from ssdlite.models.decode import Decoder
from ssdlite.models.detector import Detector
from ssdlite.models.network import Network


def export_file(
    network: Network,
    path: Path,
    name: str,
    *,
    decoder: Decoder,
    metadata: ExportMetadata,
    verification_images: VerificationImages | None,
    head: HeadKind | None = None,
    precision: WeightPrecision = "fp32",
) -> VerificationReport | None:
    """Write `network` at `path` for the runtime `name`, with what belongs to it beside it.

    Everything is written into a folder beside `path`, verified on `verification_images`, and moved only then.
    Returns the report of the verification, None where there was none.

    Args:
        decoder: how detections are chosen; it is in the metadata.
        verification_images: images that the file is compared with PyTorch on before it is written. None: no
            verification.
        head: where the file ends; None takes the first that the runtime takes.

    Raises ConfigError for what the runtime does not take, UserError where a package is missing or nothing can be
    written, CheckpointError if the conversion fails or the file does not compute what the network does.
    """
    runtime, detector = RUNTIMES[name], require_detector(network, name)
    head = head or runtime.heads[0]
    require_choice(runtime, path, head, precision)
    conversion = Conversion(detector, head, precision, decoder, metadata)
    versions = versions_of("ssdlite", "torch", *runtime.distributions)
    facts: dict[str, Any] = {"format": name, "precision": precision, "versions": versions}
    report = None
    with _folder_beside(path) as folder:
        draft = folder / path.name
        properties = runtime.convert(conversion, draft)
        facts["files"] = {file.name: _size(file) for file in sorted(folder.iterdir())}
        write_sidecar(draft, {**facts, "proof": None}, properties)
        if verification_images and runtime.runs_here:
            report = verify_export(open_file(draft), detector, decoder, verification_images)
            if not report.passed:
                raise CheckpointError(
                    f"{path} was not written, because {runtime.program} does not give PyTorch's outputs: "
                    f"{report.summary}."
                )
            write_sidecar(draft, {**facts, "proof": report.to_dict()}, properties)
        _move(folder, path)
    return report


def require_detector(network: Network, name: str) -> Detector:
    """Raise ConfigError for a network that finds corners: nobody has tried its decoding in these runtimes."""
    if not isinstance(network, Detector):
        raise ConfigError(f"a corner network cannot be written for {name}; write it with 'ssdlite export-onnx'.")
    return network


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder on the same disk, which is gone afterwards."""
    with _as_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    with folder:
        yield Path(folder.name)


@contextlib.contextmanager
def _as_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from None


def _move(folder: Path, path: Path) -> None:
    """Put everything in `folder` beside `path`; `path` itself comes last, so that it is there only when all is."""
    own = [folder / path.name]
    document = [sidecar_path(own[0])]
    others = [file for file in folder.iterdir() if file not in own + document]
    files = [*others, *document, *own]
    for target in (path.parent / file.name for file in files):
        is_package = target.suffix == ".mlpackage" and (target / "Manifest.json").is_file()
        if target.is_dir() and not is_package:
            raise UserError(f"cannot write {target}: there is a folder of that name; choose another --output.")
    with _as_sentence(path):
        for file in files:
            target = path.parent / file.name
            if target.is_dir() and not target.is_symlink():  # a package of before; folders are not replaced
                shutil.rmtree(target)
            file.replace(target)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
