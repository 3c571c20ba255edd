"""Stores what TensorFlow answers, for `check_parity.py` to compare with. Has been run once.

    python scripts/make_parity_reference.py frozen_inference_graph.pb DATA/coco128

Needs TensorFlow 2, numpy and Pillow, and nothing of ours: run it in an environment of its own. The reference was
written with TensorFlow 2.21 on a CPU.
"""

from __future__ import annotations

import argparse
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PARITY_DIR = Path(__file__).parents[1] / "tests" / "importers" / "parity"
REFERENCE = PARITY_DIR / "reference.npz"

SIDE = 300  # of the network's input: images of this size are not resized
PHOTOS = ("astronaut.jpg", "hopper.jpg")
NOISES = ("noise", "smooth_noise")
COCO_IMAGES = ("000000000061.jpg", "000000000241.jpg", "000000000257.jpg", "000000000623.jpg")
COCO_FOLDER = "train2017"

# Every fifth prior of the two large maps, whose cells have 3 and 6, and all of the small ones.
KEPT = np.r_[0:1683:5, 1683:1917]
MIN_SCORE = 0.02

ENCODINGS, LOGITS, ANCHORS = "Squeeze:0", "concat_1:0", "Concatenate/concat:0"
DETECTIONS = ("detection_boxes:0", "detection_scores:0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path, help="frozen_inference_graph.pb")
    parser.add_argument("coco128", type=Path, help=f"the folder with {COCO_FOLDER}/")
    parser.add_argument("--output", type=Path, default=REFERENCE)
    options = parser.parse_args()
    session = open_graph(options.graph)
    images = [*(make_noise(name) for name in NOISES), *(read_rgb(PARITY_DIR / name) for name in PHOTOS)]
    content = ask_network(session, images)
    for name, image in zip((*NOISES, *PHOTOS), images, strict=True):
        content[f"detections/{name}"] = ask_detections(session, image)
    for name in COCO_IMAGES:
        content[f"detections/{name}"] = ask_detections(session, read_rgb(options.coco128 / COCO_FOLDER / name))
    np.savez_compressed(options.output, **content)  # type: ignore[arg-type]
    print(f"Wrote {options.output} ({options.output.stat().st_size / 1e3:.0f} kB)")


def make_noise(name: str) -> np.ndarray:
    """(300, 300, 3) uint8: every value by itself, or `smooth`: between knots 30 pixels apart.

    From the raw stream of PCG64, which numpy promises never to change, and in whole numbers.
    """
    draws = np.random.PCG64(3).random_raw(SIDE * SIDE * 3 // 8).astype("<u8").view(np.uint8)
    if name == "noise":
        return draws.reshape(SIDE, SIDE, 3)
    knots = draws[: 11 * 11 * 3].reshape(11, 11, 3).astype(int)
    return _between(_between(knots).swapaxes(0, 1)).swapaxes(0, 1).astype(np.uint8)


def _between(knots: np.ndarray) -> np.ndarray:
    """(11, ...) whole numbers -> (300, ...): linear along the first axis, rounded down."""
    cell, step = np.divmod(np.arange(SIDE), 30)
    step = step.reshape(-1, *[1] * (knots.ndim - 1))
    return (knots[cell] * (30 - step) + knots[cell + 1] * step) // 30


def read_rgb(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def checksum(image: np.ndarray) -> int:
    """Return a checksum of the pixels: another decoder's must not be taken for another network's."""
    return zlib.crc32(np.ascontiguousarray(image).tobytes())


def open_graph(path: Path) -> Any:
    tf = import_module("tensorflow")  # at run time only: linters need not have it
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(path.read_bytes())
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")
    return tf.compat.v1.Session(graph=graph)


def ask_network(session: Any, images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Anchors y1, x1, y2, x2 in 0..1, encodings y, x, h, w and logits of the priors KEPT, in TensorFlow's order."""
    answers = [session.run([ANCHORS, ENCODINGS, LOGITS], {"image_tensor:0": image[None]}) for image in images]
    anchors, encodings, logits = zip(*answers, strict=True)
    return {
        "kept": KEPT,
        "checksums": np.array([checksum(image) for image in images]),
        "anchors": anchors[0][KEPT],
        "encodings": np.concatenate(encodings)[:, KEPT],
        "logits": np.concatenate(logits)[:, KEPT],
    }


def ask_detections(session: Any, image: np.ndarray) -> np.ndarray:
    """(D, 5): y1, x1, y2, x2 in 0..1 of the image, score; those above MIN_SCORE, best first."""
    boxes, scores = session.run(DETECTIONS, {"image_tensor:0": image[None]})
    rows = np.column_stack([boxes[0], scores[0]])
    return rows[rows[:, 4] > MIN_SCORE]


if __name__ == "__main__":
    main()
