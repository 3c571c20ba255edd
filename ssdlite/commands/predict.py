"""`ssdlite predict`: pictures, videos and cameras in; pictures, videos, JSON, text and crops out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from ssdlite.build.load import LoadedModel, is_exported, load_model, require_openable
from ssdlite.commands.arguments import require_device_name
from ssdlite.commands.console import console, progress_bars
from ssdlite.errors import ConfigError, DataError
from ssdlite.inference.frames import Source
from ssdlite.inference.images import Finder, Thresholds, keep_above, parse_thresholds
from ssdlite.inference.inputs import PATIENCE, ImageFile, find_inputs
from ssdlite.inference.outputs import Crops, JsonFile, Outputs, Pictures, TextFiles, Writer
from ssdlite.inference.pipeline import Pipeline
from ssdlite.inference.tiles import OVERLAP, Tiling
from ssdlite.inference.video import Display, Video, has_display
from ssdlite.io import require_writable
from ssdlite.machine import usable_cores
from ssdlite.training.process import Interrupt

logger = logging.getLogger(__name__)


SCORE_THRESHOLD = 0.4


OUTPUT = Path("predictions")


@dataclass(frozen=True)
class InputOptions:
    """Options of how inputs are read."""

    recursive: bool = False
    every: int | None = None  # of a video, only each N-th frame
    timeout: float | None = None  # seconds that a live source may be silent


@dataclass(frozen=True)
class OutputOptions:
    """Options of what is written, and where."""

    directory: Path | None = None  # default: OUTPUT
    pictures: bool = True
    json_path: Path | None = None  # default: predictions.json in the directory
    text_dir: Path | None = None
    crops_dir: Path | None = None
    show: bool = False

    @property
    def folder(self) -> Path:
        return self.directory or OUTPUT


@dataclass(frozen=True)
class FindOptions:
    """Options of the detection: thresholds, tiles, batches and device."""

    score_thresholds: Sequence[str] = ()
    tile: int | None = None  # pixels
    tile_overlap: float | None = None
    batch_size: int | None = None
    device: str = "auto"


def run_predict(
    model_path: Path, inputs: Sequence[str], reading: InputOptions, finding: FindOptions, keeping: OutputOptions
) -> None:
    """Find objects in `inputs` and keep what `keeping` says; see `ssdlite predict --help`."""
    if finding.tile is None and finding.tile_overlap is not None:
        raise ConfigError("--tile-overlap has no effect without --tile; give the side of a tile, as in --tile 640.")
    if keeping.directory and keeping.json_path and not keeping.pictures:
        raise ConfigError("--output has no effect with --no-pictures and --save-json; leave out one of them.")
    require_device_name(finding.device)
    if keeping.show and not has_display():
        raise ConfigError(
            "--show needs a screen and an OpenCV with windows, and one of them is missing here "
            "(pip install opencv-python in place of opencv-python-headless); leave it out, and look at --output."
        )
    thresholds = parse_thresholds(finding.score_thresholds, SCORE_THRESHOLD)
    require_openable(model_path, {}, finding.device)
    sources = _find_sources(inputs, reading)
    model = load_for_prediction(model_path, thresholds, finding.device)
    writers = _make_writers(keeping, sources, model.class_names)
    outputs, pipeline, seconds = predict_all(model, sources, finding, thresholds, writers)
    _report(outputs, pipeline, seconds, keeping)
    if pipeline.stopped() and sources[0].patience is None and not _is_closed(writers):
        raise KeyboardInterrupt  # a camera ends like this, but here some of the inputs are left


def predict_all(
    model: LoadedModel,
    sources: Sequence[Source],
    finding: FindOptions,
    thresholds: Thresholds,
    writers: Sequence[Writer],
) -> tuple[Outputs, Pipeline, float]:
    """Hand what is found in each picture of `sources` to all writers, which are closed in the end.

    Ctrl-C ends it after what is being written. Returns the counts, the pipeline and the seconds that it took.
    """
    limits = thresholds.for_classes(model.class_names)
    with Interrupt("finishing what is being written") as interrupt:
        pipeline = Pipeline(
            sources,
            _make_finder(model, finding),
            num_readers=usable_cores(),
            num_finders=usable_cores() if model.runs_in_threads else 1,
            stopped=lambda: interrupt.requested or _is_closed(writers),
        )
        started = time.perf_counter()
        with _one_thread_for_opencv(), Outputs(writers, model.class_names) as outputs, progress_bars() as shown:
            task = shown.add_task("Predicting", total=_count(sources))
            for prediction in pipeline:
                outputs.write(prediction._replace(detections=keep_above(prediction.detections, limits)))
                shown.advance(task)
        return outputs, pipeline, time.perf_counter() - started


def _is_closed(writers: Sequence[Writer]) -> bool:
    """Return whether the user has closed the window."""
    return any(isinstance(writer, Display) and writer.is_closed for writer in writers)


def _find_sources(inputs: Sequence[str], options: InputOptions) -> list[Source]:
    sources = find_inputs(
        inputs,
        recursive=options.recursive,
        every=options.every or 1,
        patience=PATIENCE if options.timeout is None else options.timeout,
    )
    if options.every is not None and not any(isinstance(source, Video) for source in sources):
        raise ConfigError("--every has no effect: there is no video, camera or stream among the inputs.")
    if options.timeout is not None and sources[0].patience is None:
        raise ConfigError("--timeout has no effect: there is no camera or stream among the inputs.")
    if options.recursive and not any(Path(text).is_dir() for text in inputs):
        raise ConfigError("--recursive has no effect: there is no folder among the inputs.")
    return sources


def load_for_prediction(path: Path, thresholds: Thresholds, device: str) -> LoadedModel:
    """Load a model with the lowest of `thresholds`."""
    # An exported file has its own threshold inside; from both, what is below is left out afterwards.
    overrides = {} if is_exported(path) else {"eval.score_threshold": thresholds.lowest}
    model = load_model(path, overrides, device, threads=1)
    if thresholds.lowest < model.score_threshold:
        logger.warning(
            "%s was exported with eval.score_threshold=%g: what scores below is not found, whatever is asked for.",
            path,
            model.score_threshold,
        )
    return model


def _make_finder(model: LoadedModel, options: FindOptions) -> Finder:
    fixed = getattr(model.predictor, "batch_size", None)
    if None not in (options.batch_size, fixed) and options.batch_size != fixed:
        raise ConfigError(f"--batch-size has no effect on this file, which takes {fixed} images at a time.")
    tiling = None
    if options.tile is not None:
        overlap = OVERLAP if options.tile_overlap is None else options.tile_overlap
        tiling = Tiling(options.tile, overlap, model.config.eval.iou_threshold)
    return Finder(
        model.predictor,
        model.input_size,
        model.alignment,
        batch_size=options.batch_size or model.batch_size,
        tiling=tiling,
    )


def _make_writers(options: OutputOptions, sources: Sequence[Source], class_names: Sequence[str]) -> list[Writer]:
    json_path = options.json_path or options.folder / "predictions.json"
    require_writable(json_path)
    writers: list[Writer] = [JsonFile(json_path, class_names)]
    if options.pictures:
        pictures = Pictures(options.folder)
        require_writable(options.folder / "predictions.json")
        _require_no_overwriting(pictures, sources)
        writers.append(pictures)
    if options.text_dir:
        require_writable(options.text_dir / "classes.txt")
        writers.append(TextFiles(options.text_dir, class_names))
    if options.crops_dir:
        require_writable(options.crops_dir / "crop.jpg")
        writers.append(Crops(options.crops_dir, class_names))
    if options.show:
        writers.append(Display())
    return writers


def _require_no_overwriting(pictures: Pictures, sources: Sequence[Source]) -> None:
    targets = {pictures.path_of(source).resolve() for source in sources}
    for source in sources:
        is_file = isinstance(source, ImageFile) or (isinstance(source, Video) and source.patience is None)
        if is_file and Path(source.name).resolve() in targets:
            raise ConfigError(f"{source.name} would be overwritten by its own picture; choose another --output.")


def _count(sources: Sequence[Source]) -> int | None:
    """Pictures in all, as far as anyone can say."""
    counts: list[int | None] = []
    for source in sources:
        if isinstance(source, Video):
            try:
                counts.append(source.num_frames)
            except DataError:  # it is left out, and then said so
                counts.append(0)
        else:
            counts.append(1 if isinstance(source, ImageFile) else None)
    return None if None in counts else sum(count for count in counts if count is not None)


@contextmanager
def _one_thread_for_opencv() -> Iterator[None]:
    """The pipeline's threads are the parallelism; OpenCV's own would fight over the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _report(outputs: Outputs, pipeline: Pipeline, seconds: float, options: OutputOptions) -> None:
    if not outputs.num_images and not pipeline.stopped():
        raise DataError(f"none of the {pipeline.num_unreadable} images could be read.")
    places = [f"pictures in {options.folder}"] if options.pictures else []
    places.append(f"detections in {options.json_path or options.folder / 'predictions.json'}")
    places += [f"text in {options.text_dir}"] if options.text_dir else []
    places += [f"crops in {options.crops_dir}"] if options.crops_dir else []
    if pipeline.num_dropped:
        console.print(f"{pipeline.num_dropped} frames were left out, because they came faster than they were done.")
    rate = outputs.num_images / seconds
    found = f"{outputs.num_objects} objects in {outputs.num_images} images ({rate:.1f} images/s)"
    console.print(f"{found}; {', '.join(places)}")
