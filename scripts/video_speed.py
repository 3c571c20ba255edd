"""Speed of `ssdlite predict` on a film of ten seconds, and what each part of the work takes by itself.

python scripts/video_speed.py runs/NAME/best.onnx [--seconds 10] [--runs 3] [-- --every 2]

The film is drawn: a camera pans over scenes of shapes, 640x480 at 25 frames a second, as MPEG-4. What predict
prints at the end counts decoding, finding, drawing and encoding, but not the start of Python. What follows -- is
handed on to it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssdlite.build.load import load_model
from ssdlite.data.synthetic.pictures import draw_scene
from ssdlite.drawing import draw_detections
from ssdlite.inference.images import Finder, keep_above
from ssdlite.inference.video import FilmWriter, Video

SIZE, MARGIN = (480, 640), 160  # (height, width), and how far beyond it a scene reaches, pixels
RATE = 25
SCENE_SECONDS = 2
NOISE = 4.0  # grey levels: a sensor's in daylight
STAGE_FRAMES = 50


def draw_film(path: Path, num_frames: int, seed: int = 0) -> None:
    """Scenes of shapes, over which a camera pans."""
    film = FilmWriter(path, RATE)
    rng = np.random.default_rng(seed)
    for number in range(num_frames):
        step = number % (SCENE_SECONDS * RATE)
        if step == 0:
            scene, _ = draw_scene(rng, (SIZE[0] + MARGIN, SIZE[1] + MARGIN))
        x, y = (MARGIN * step // (SCENE_SECONDS * RATE), MARGIN // 2)
        view = scene[y : y + SIZE[0], x : x + SIZE[1]]
        noise = NOISE * rng.standard_normal((*SIZE, 1), np.float32)
        film.write(np.clip(view + noise, 0, 255).astype(np.uint8))
    film.close()


def read_rate(printed: str) -> float:
    """Images a second, from what predict printed."""
    found = re.search(r"\(([\d.]+) images/s\)", printed)
    if found is None:
        sys.exit(f"predict failed:\n{printed}")
    return float(found[1])


def time_stages(model_path: Path, film: Path) -> dict[str, float]:
    """Milliseconds of one thread for each part of one frame, the median of `STAGE_FRAMES`."""
    cv2.setNumThreads(1)
    model = load_model(model_path, threads=1)
    finder = Finder(model.predictor, model.input_size, model.alignment)
    limits = np.full(len(model.class_names), 0.4, np.float32)
    frames = iter(Video(str(film), "film"))
    output = FilmWriter(film.with_name("stages.mp4"), RATE)
    spent: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[..., Any], *given: Any) -> Any:
        started = time.perf_counter()
        result = work(*given)
        spent.setdefault(name, []).append(time.perf_counter() - started)
        return result

    for _ in range(STAGE_FRAMES):
        frame = timed("decode", next, frames, None)
        if frame is None:
            break
        image = frame.read()
        prepared = timed("resize", finder.prepare, image)
        found = keep_above(timed("network", finder.find, [prepared])[0], limits)
        boxes = found.boxes, found.labels, model.class_names, found.scores
        timed("encode", output.write, timed("draw", draw_detections, image, *boxes))
    output.close()
    return {name: 1000 * float(np.median(seconds)) for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--runs", type=int, default=3)
    # argparse itself loses what follows -- behind an option of its own.
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder, "film.mp4")
        draw_film(film, round(arguments.seconds * RATE))
        command = [sys.executable, "-m", "ssdlite", "predict", str(arguments.model), str(film)]
        command += ["--output", str(Path(folder, "out")), *options]
        for _ in range(arguments.runs):
            result = subprocess.run(command, capture_output=True, text=True)
            rate = read_rate(result.stdout + result.stderr)
            print(f"{rate:.1f} frames/s: {rate / RATE:.2f} times as fast as the film")
        stages = time_stages(arguments.model, film)
    print("one thread, ms a frame: " + ", ".join(f"{name} {spent:.2f}" for name, spent in stages.items()))
    print(f"together {sum(stages.values()):.1f} ms: {1000 / sum(stages.values()):.0f} frames/s a core at best")


if __name__ == "__main__":
    main()
