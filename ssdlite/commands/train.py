"""`ssdlite train`: build everything, train, keep the best, show samples."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssdlite.build.data import find_sources, read_data, require_objects, write_validation_list
from ssdlite.build.model import build_decoder, build_detector, empty_detector, restore_norms, settle_start
from ssdlite.build.priors import fit_and_tell, with_priors
from ssdlite.build.training import build_criterion, build_dtype, build_loader, build_step
from ssdlite.commands.console import console, print_evaluation, progress_bars, tracker
from ssdlite.commands.make_data import draw_data
from ssdlite.commands.report import report_model
from ssdlite.commands.report_builder import REPORT
from ssdlite.commands.run_folder import latest_run, log_session, run_dirs, write_detections
from ssdlite.commands.tensorboard import show_curves, show_hyperparameters, show_matches, watched_batch
from ssdlite.config.schema import Config, config_from_checkpoint, config_from_dict
from ssdlite.data.device import finish_images
from ssdlite.data.images import read_image
from ssdlite.drawing import draw_comparison, make_grid, write_image
from ssdlite.errors import CheckpointError, ConfigError, UserError
from ssdlite.evaluation.evaluate import Evaluation, evaluate, warn_of_absent_classes
from ssdlite.io import write_text
from ssdlite.machine import describe_machine
from ssdlite.models.predictor import TorchPredictor
from ssdlite.structures import DataSplit
from ssdlite.training.checkpoint import has_newest, load_newest, require_same_run
from ssdlite.training.distributed import (
    in_main_process,
    is_main,
    launch_id,
    merge_dicts,
    process_group,
    rank,
    restarts,
    world_size,
)
from ssdlite.training.loggers import Logbook
from ssdlite.training.loop import Progress, Trainer
from ssdlite.training.process import keep_memory
from ssdlite.validate.check import quick_check
from ssdlite.validate.problems import SAID_BY_READERS, summary_lines

logger = logging.getLogger(__name__)


LAUNCH_FILE = ".torchrun"  # in a run's folder: which torchrun began it


VALIDATION_FILE = "validation-images.txt"  # in a run's folder, where the data set has no validation set


NUM_SAMPLES = 16


SAMPLE_THRESHOLD = 0.4  # detections below are not drawn


SAMPLE_CELL = (320, 320)  # pixels of each in the grid


def run_train(config: Config, *, default_name: str, resume: bool, device: str) -> None:
    """Train as `config` says and leave a run folder; see `ssdlite train --help`."""
    with process_group(device) as chosen:
        if not is_main():
            logging.getLogger("ssdlite").setLevel(logging.ERROR)
        torch.manual_seed(config.run.seed)
        if chosen.type == "cpu":
            keep_memory()
        if chosen.type == "cuda":
            torch.backends.cudnn.benchmark = True
        if restarts() and not resume:
            resume = in_main_process(lambda: _has_run(config, default_name))
        resumed = (
            in_main_process(lambda: latest_run(config.run.dir, config.run.name or default_name)) if resume else None
        )
        checkpoint = _load_run(resumed) if resumed else None
        config = _keep_validation(config, checkpoint)
        train_split, val_split = _read_data(config)
        config = _settle_start(config, checkpoint)
        config = _settle_priors(config, train_split, checkpoint)
        run = Run(config, train_split, val_split, chosen, fresh=checkpoint is None)
        run_dir = resumed or in_main_process(lambda: _new_run(config, default_name))
        try:
            run.train(run_dir, checkpoint)
        except UserError:
            if is_main() and not has_newest(run_dir) and not any(run_dir.glob("nonfinite-*")):
                shutil.rmtree(run_dir)  # nothing was trained that one could come back to
            raise


def _load_run(run_dir: Path) -> dict[str, Any]:
    """The checkpoint to resume; options that are younger than it get their defaults."""
    checkpoint = load_newest(run_dir)
    return {**checkpoint, "config": config_from_checkpoint(checkpoint["config"], origin=str(run_dir)).to_dict()}


def _keep_validation(config: Config, checkpoint: Mapping[str, Any] | None) -> Config:
    """`config` with the run's data.val_fraction where it is not set: older runs validated on all training
    images."""
    fraction = checkpoint["config"]["data"]["val_fraction"] if checkpoint else config.data.val_fraction
    if "val_fraction" in config.data.model_fields_set or fraction == config.data.val_fraction:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"val_fraction": fraction})})


def _settle_start(config: Config, checkpoint: Mapping[str, Any] | None) -> Config:
    """`config` with a start and a dialect in place of auto: the run's to resume, or `build.settle_start`'s."""
    if checkpoint is None:
        return in_main_process(lambda: settle_start(config))
    old, model = config_from_dict(checkpoint["config"]).model, config.model
    settled = {name: getattr(old, name) for name in ("weights", "dialect") if getattr(model, name) == "auto"}
    return config.model_copy(update={"model": model.model_copy(update=settled)})


def _settle_priors(config: Config, split: DataSplit, checkpoint: Mapping[str, Any] | None) -> Config:
    """`config` with priors in place of model.priors=auto: fitted to `split`, or those of the run to resume."""
    if config.model.priors != "auto":
        return config
    if checkpoint is None:
        return in_main_process(lambda: fit_and_tell(config, split))
    fitted = config_from_dict(checkpoint["config"]).model.priors
    if fitted == "dialect":
        require_same_run(checkpoint, {"config": config.to_dict(), "classes": split.class_names})
    return with_priors(config, fitted)


def _read_data(config: Config) -> tuple[DataSplit, DataSplit]:
    draw = config.data.draw
    if draw is not None:
        if config.data.path is None:
            raise ConfigError("data.draw needs data.path, the folder to draw into.")
        path = config.data.path
        in_main_process(
            lambda: draw_data(path, num_train=draw.train, num_val=draw.val, size=draw.size, seed=draw.seed)
        )
    if is_main():
        sources = find_sources(config.data)
        findings = quick_check(
            sources.train or [],
            sources.val or [],
            config.data.class_names,
            ignore_unknown=config.data.ignore_unknown,
        )
        for line in summary_lines([one for one in findings if one.kind not in SAID_BY_READERS]):
            logger.warning("%s", line)
    train_split, val_split = read_data(config.data)
    logger.info(
        "%d images to train on, %d to validate on, %d classes: %s",
        len(train_split),
        len(val_split),
        len(train_split.class_names),
        _shortened(train_split.class_names),
    )
    require_objects(train_split)
    if is_main():
        warn_of_absent_classes(val_split)
    return train_split, val_split


def _shortened(names: tuple[str, ...], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _new_run(config: Config, default_name: str) -> Path:
    """The first folder that is not taken, made at once, so that two runs never share one."""
    for run_dir in run_dirs(config.run.dir, config.run.name or default_name):
        with contextlib.suppress(FileExistsError):
            run_dir.mkdir(parents=True)
            if launch_id():
                write_text(run_dir / LAUNCH_FILE, launch_id())
            return run_dir
    raise AssertionError("there are always more numbers")


def _has_run(config: Config, default_name: str) -> bool:
    """Return whether this torchrun has begun a run that can be resumed; else it begins again."""
    try:
        run_dir = latest_run(config.run.dir, config.run.name or default_name)
        return (run_dir / LAUNCH_FILE).read_text(encoding="utf-8") == launch_id()
    except (CheckpointError, FileNotFoundError):
        return False


class Run:
    """The objects of one run and what happens at its validations."""

    def __init__(
        self, config: Config, train_split: DataSplit, val_split: DataSplit, device: torch.device, *, fresh: bool
    ) -> None:
        self.config, self.device = config, device
        self.train_split, self.val_split = train_split, val_split
        # Every process draws its own.
        self.criterion = build_criterion(config.loss, train_split, seed=config.run.seed * 1000 + rank())
        self.dtype = build_dtype(config.train.precision, device)
        size = config.model.input_size
        # A run that is resumed has its own weights; those that it started from need not be there any more.
        make = build_detector if fresh else empty_detector
        detector = make(config, train_split.class_names)
        alignment = detector.dialect.resize_alignment
        make_loader = partial(build_loader, config, alignment=alignment, device=device)
        self.train_loader = make_loader(train_split, training=True)
        self.val_loader = make_loader(val_split, training=False, beside=self.train_loader)
        if (self.train_loader.batch_size or 0) < 2 * config.train.accumulate:
            raise ConfigError(
                "each process needs at least 2 images a step, and in each of train.accumulate parts, because "
                "BatchNorm sees a 1x1 map; raise train.batch_size, or add images."
            )
        if fresh:
            restore_norms(detector.to(device), config, train_split, device)
        if config.train.sync_norms and world_size() > 1:
            if device.type != "cuda":
                raise ConfigError(f"train.sync_norms works between GPUs only, and this is {device}; leave it out.")
            detector = nn.SyncBatchNorm.convert_sync_batchnorm(detector)
        self.detector = detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoder = build_decoder(config.eval, size)
        self.header = {"config": config.to_dict(), "classes": list(train_split.class_names)}
        self.evaluation: Evaluation | None = None
        self.logbook: Logbook | None = None

    def train(self, run_dir: Path, checkpoint: Mapping[str, Any] | None) -> None:
        """Train in `run_dir`, from the start or from `checkpoint`, and say what came of it."""
        self.run_dir = run_dir
        trainer = self._build_trainer()
        if checkpoint:
            trainer.restore(checkpoint)
            logger.info("Resuming %s at step %d.", run_dir, trainer.progress.step)
        if is_main():
            write_text(run_dir / "config.yaml", self.config.to_yaml())
            if find_sources(self.config.data).val_is_train:
                write_validation_list(self.val_split, run_dir / VALIDATION_FILE)
            machine = describe_machine(self.device, self.dtype) | {"processes": world_size()}
            log_session(run_dir, trainer.progress.step, machine)
        with progress_bars() as self.progress_bars:
            epochs = trainer.epochs
            total = epochs * len(self.train_loader)
            task = self.progress_bars.add_task(
                "Training", total=total, completed=trainer.progress.step, visible=is_main()
            )

            def advance(progress: Progress, loss: float) -> None:
                shown = f"epoch {progress.epoch + 1}/{epochs}"
                shown += f" loss {loss:.3f}" if loss == loss else ""
                self.progress_bars.update(task, completed=progress.step, description=shown)

            trainer.on_step = advance
            if is_main():
                # Points beyond the step that is resumed are taken back.
                purge_step = trainer.progress.step + 1 if checkpoint else None
                lines = checkpoint["training"].get("log_lines") if checkpoint else None
                self.logbook = trainer.logbook = Logbook(self.run_dir, purge_step, lines, self.config.run.loggers)
                show_hyperparameters(self.logbook, self.config)
            try:
                finished = trainer.run()
                if finished and self.logbook:
                    self.logbook.finish()
            finally:
                if trainer.logbook:
                    trainer.logbook.close()
        if is_main():
            log_session(run_dir, trainer.progress.step)
            self._say_what_came_of_it(finished, trainer.progress)
            if finished and self.config.run.report:
                self._write_report()

    def _build_trainer(self) -> Trainer:
        options = self.config.train
        return Trainer(
            step=build_step(
                self.config,
                self.detector,
                self.criterion,
                total_steps=options.epochs * len(self.train_loader),
                device=self.device,
                dtype=self.dtype,
            ),
            loader=self.train_loader,
            validate=self._validate,
            run_dir=self.run_dir,
            header=self.header,
            epochs=options.epochs,
            log_interval=options.log_interval,
            val_interval=options.val_interval,
            save_interval=options.save_interval,
            keep=options.keep,
            on_nonfinite=options.on_nonfinite,
            finish=partial(finish_images, size=self.config.model.input_size),
            on_best=self._keep_detections,
        )

    def _validate(self, model: nn.Module, step: int) -> Mapping[str, Any]:
        """The figures of `model` on the validation split, and its pictures; {} but in the main process."""
        predictor = TorchPredictor(model, self.decoder, self.device, self.dtype)
        progress = tracker("Validating", self.progress_bars) if is_main() else None
        evaluation = evaluate(predictor, self.val_loader, self.val_split, gather=merge_dicts, progress=progress)
        if evaluation is None:
            return {}
        self.evaluation = evaluation
        log_session(self.run_dir, step)
        self._draw_samples(evaluation, step)
        if self.logbook:
            show_curves(self.logbook, step, self.val_split, evaluation)
            size = self.config.model.input_size
            batch = watched_batch(self.train_loader, self.config.eval.batch_size, size, self.device)
            show_matches(self.logbook, step, self.criterion, predictor.start(batch).output, batch)
        figures = evaluation.to_dict()
        flat = {name: value for name, value in {**figures["coco"], **figures["voc"]}.items() if value is not None}
        shown = ", ".join(f"{name} {flat[name]:.3f}" for name in ("AP", "AP50") if name in flat)
        logger.info("step %d: %s", step, shown or "no objects to find, so no AP")
        per_class = {name: row["AP"] for name, row in figures["per_class"].items() if row["AP"] is not None}
        return {**flat, "per_class_AP": per_class}

    def _draw_samples(self, evaluation: Evaluation, step: int) -> None:
        chosen = list(zip(self.val_split.records, evaluation.detections, strict=True))[:NUM_SAMPLES]
        pictures = []
        for record, detections in chosen:
            confident = type(detections)(*(field[detections.scores >= SAMPLE_THRESHOLD] for field in detections))
            image = read_image(record.image_path, record.size)
            pictures.append(draw_comparison(image, record, confident, self.val_split.class_names))
        grid = make_grid(pictures, columns=4, cell_size=SAMPLE_CELL)
        write_image(self.run_dir / "samples.jpg", grid)
        if self.logbook:
            self.logbook.picture("samples", step, grid)

    def _keep_detections(self) -> None:
        assert self.evaluation is not None  # there is a best one once one was validated
        write_detections(self.run_dir, self.val_split, self.evaluation.detections)

    def _write_report(self) -> None:
        """The page about the best weights. Whatever may be wrong with it, the training was not in vain."""
        splits = {"train": self.train_split, "val": self.val_split}
        try:
            path = self.run_dir / REPORT
            report_model(self.run_dir / "best.pt", path=path, device=str(self.device), splits=splits)
        except Exception as error:
            logger.warning(
                "the report could not be written (%s); try again with: ssdlite report %s", error, self.run_dir
            )

    def _say_what_came_of_it(self, finished: bool, progress: Progress) -> None:
        if not finished:
            console.print(
                f"Stopped at step {progress.step}; everything is in {self.run_dir}. "
                "The same command with --resume continues."
            )
            return
        if self.evaluation:
            print_evaluation(self.evaluation, "Validation after the last epoch")
        best = f"Best AP {progress.best_ap:.3f}" if progress.best_ap >= 0 else "No AP, last weights"
        console.print(f"{best}: {self.run_dir / 'best.pt'}", markup=False)
        has_events = "tensorboard" in self.config.run.loggers
        command = f", or run: tensorboard --logdir {self.run_dir}" if has_events else ""
        console.print(f"Look at {self.run_dir / 'samples.jpg'}{command}")
