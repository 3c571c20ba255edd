"""`ssdlite predict`: pictures in, pictures and JSON out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ssdlite.commands.models import is_exported, load_model
from ssdlite.commands.screen import console, tracker
from ssdlite.deploy.predict import Prediction, find_images, predict_images, prediction_to_json
from ssdlite.drawing import draw_detections, write_image
from ssdlite.errors import ConfigError, DataError
from ssdlite.files import require_writable, write_text
from ssdlite.structures import Detections


def predict(
    model_path: Path,
    inputs: Sequence[Path],
    *,
    output_dir: Path,
    json_path: Path | None,
    score_threshold: float,
    device: str,
) -> None:
    """Find objects in `inputs` and write pictures and JSON; see `ssdlite predict --help`."""
    paths = find_images(inputs)
    # An exported file has its own threshold inside; from both, what is below is left out here.
    overrides = [] if is_exported(model_path) else [f"eval.score_threshold={score_threshold}"]
    model = load_model(model_path, overrides, device)
    names = _picture_names(paths)
    targets = {(output_dir / name).resolve() for name in names.values()}
    if clashing := [path for path in paths if path.resolve() in targets]:
        raise ConfigError(f"{clashing[0]} would be overwritten by its own picture; choose another --output.")
    require_writable(output_dir / "predictions.json")
    rows = []
    predictions = predict_images(
        model.predictor, tracker("Predicting")(paths), input_size=model.input_size, alignment=model.alignment
    )
    for prediction in predictions:
        prediction = _above(prediction, score_threshold)
        picture = draw_detections(
            prediction.image,
            prediction.detections.boxes,
            prediction.detections.labels,
            model.class_names,
            prediction.detections.scores,
        )
        write_image(output_dir / names[prediction.path], picture)
        rows.append(prediction_to_json(prediction, model.class_names))
    if not rows:
        raise DataError(f"none of the {len(paths)} images could be read.")
    json_path = json_path or output_dir / "predictions.json"
    write_text(json_path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    found = sum(len(row["detections"]) for row in rows)
    console.print(f"{found} objects in {len(rows)} images; pictures in {output_dir}, detections in {json_path}")


def _above(prediction: Prediction, threshold: float) -> Prediction:
    found = prediction.detections
    kept = found.scores > threshold
    return prediction._replace(detections=Detections(*(field[kept] for field in found)))


def _picture_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each picture: the image's own, numbered where two folders hold the same name."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg"
        name, number = path.stem + suffix, 2
        while name in taken:
            name, number = f"{path.stem}-{number}{suffix}", number + 1
        taken.add(name)
        names[path] = name
    return names
