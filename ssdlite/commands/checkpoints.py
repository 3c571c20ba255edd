"""`ssdlite import-checkpoint` and `export-checkpoint`: the networks of other programs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.build.load import require_checkpoint
from ssdlite.commands.console import console
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.io import require_writable
from ssdlite.training.checkpoint import save_checkpoint, write_whole

if TYPE_CHECKING:
    from ssdlite.importers.names import ForeignNetwork
    from ssdlite.models.detector import Detector


logger = logging.getLogger(__name__)


FORMAT_NAMES = ("auto", "pytorch-ssd", "lufficc", "mmdetection", "tensorflow")


def run_import_checkpoint(
    source: Path,
    *,
    output: Path,
    file_format: str = "auto",
    class_names_path: Path | None = None,
    input_size: int | None = None,
) -> None:
    """Write `source` as a checkpoint of ours; see `ssdlite import-checkpoint --help`."""
    if file_format not in FORMAT_NAMES:
        raise ConfigError(f"--format is one of {', '.join(FORMAT_NAMES)}, not '{file_format}'.")
    _require_apart(source, output)
    is_web = file_format in ("auto", "tensorflow") and _is_graph_model(source)
    if not source.is_file() and not (is_web and source.is_dir()):
        raise CheckpointError(
            f"{source} is a folder; name a file." if source.is_dir() else f"there is no file {source}."
        )
    from ssdlite.importers.names import guess_class_names, read_class_names
    from ssdlite.importers.pretrained import build_imported, to_checkpoint
    from ssdlite.importers.tfjs import read_graph_model
    from ssdlite.models.variants import TENSORFLOW

    if is_web:
        network = read_graph_model(source, drop_unused=class_names_path is None)
    else:
        network = _read(source, file_format)
    if input_size is not None:
        if network.dialect is TENSORFLOW:
            raise ConfigError("--input-size is for .pth files; a TensorFlow graph says its own.")
        network = replace(network, input_size=(input_size, input_size))
    if class_names_path is not None:
        class_names = read_class_names(class_names_path, network.num_classes)
    else:
        class_names = network.class_names or guess_class_names(network.num_classes)
        if is_web and network.class_names:
            logger.info("The 90 classes are taken for COCO's by id; --class-names FILE says otherwise.")
    save_checkpoint(output, to_checkpoint(network, class_names, str(source)))
    height, width = network.input_size
    num_priors = len(build_imported(network).priors)
    console.print(
        f"Wrote {output}: dialect {network.dialect.name}, {width}x{height} pixels, {num_priors} priors, "
        f"{len(class_names)} classes ({_shortened(class_names)}).",
        markup=False,
    )


def run_export_checkpoint(checkpoint: Path, *, output: Path) -> None:
    """Write a checkpoint of ours as the program of its dialect does; see `ssdlite export-checkpoint --help`."""
    require_checkpoint(checkpoint, {})
    _require_apart(checkpoint, output)
    from ssdlite.build.model import load_detector  # from here on with PyTorch
    from ssdlite.importers.torch_files import FORMATS, to_torch_file
    from ssdlite.models.detector import Detector

    loaded = load_detector(checkpoint)
    dialect = loaded.config.model.dialect
    if dialect not in FORMATS:
        raise ConfigError(
            f"{checkpoint} is of the dialect {dialect}, which no program reads as a .pth file; "
            f"those of {', '.join(FORMATS)} can be written."
        )
    detector = loaded.detector
    if not isinstance(detector, Detector):
        raise ConfigError(f"{checkpoint} has a corner head, which {dialect} does not know.")
    _compare_with_original(detector, checkpoint)
    write_whole(output, to_torch_file(loaded.detector.state_dict(), dialect, loaded.class_names))
    console.print(f"Wrote {output} for {dialect}.", markup=False)


def _require_apart(source: Path, output: Path) -> None:
    if source.resolve() == output.resolve():
        raise ConfigError(f"{source} would be overwritten by what is made of it; choose another --output.")
    require_writable(output)


def _is_graph_model(path: Path) -> bool:
    """Tell by its name whether `path` is to be read as a graph model; see `importers.tfjs`."""
    if path.is_dir():
        return (path / "model.json").exists()
    return path.name.lower().endswith((".json", ".tgz", ".tar.gz"))


def _read(source: Path, file_format: str) -> ForeignNetwork:
    from ssdlite.importers.tensorflow import read_graph
    from ssdlite.importers.torch_files import read_torch_file

    if file_format == "tensorflow" or (file_format == "auto" and source.suffix == ".pb"):
        return read_graph(source)
    return read_torch_file(source, None if file_format == "auto" else file_format)


def _compare_with_original(detector: Detector, checkpoint: Path) -> None:
    """Refuse what the other program could not read, and say what its file does not hold."""
    from ssdlite.importers.torch_files import FORMATS

    dialect = detector.dialect.name
    if detector.width != 1:
        raise ConfigError(f"{checkpoint} is of width {detector.width}, but {dialect} reads width 1 only.")
    if detector.prior_levels != detector.dialect.prior_levels:
        raise ConfigError(f"{checkpoint} has priors of its own (model.priors), but {dialect} knows its own only.")
    if detector.score_activation != detector.dialect.score_activation:
        raise ConfigError(
            f"{checkpoint} learnt scores by {detector.score_activation}, but {dialect} makes them by "
            f"{detector.dialect.score_activation}."
        )
    sizes = [(width, height) for height, width in (detector.input_size, FORMATS[dialect].input_size)]
    if sizes[0] != sizes[1]:
        logger.warning(
            "the file does not say that its input is %dx%d; %s takes it for %dx%d.", *sizes[0], dialect, *sizes[1]
        )


def _shortened(names: tuple[str, ...], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
