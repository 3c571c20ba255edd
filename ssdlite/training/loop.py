"""The training loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ssdlite.data.loader import sample_batch
from ssdlite.errors import CheckpointError, UserError
from ssdlite.structures import Batch, ImageId, LossTerms
from ssdlite.training.checkpoint import (
    random_state,
    require_same_run,
    save_checkpoint,
    save_newest,
    set_random_state,
)
from ssdlite.training.distributed import any_process, broadcast, is_main, rank, synchronize_buffers, world_size
from ssdlite.training.loggers import Logbook, Meter
from ssdlite.training.nonfinite import record_failure
from ssdlite.training.optim import groups_of_parts
from ssdlite.training.process import Interrupt
from ssdlite.training.step import TrainStep, on_device

logger = logging.getLogger(__name__)


UNDEFINED_AP = -1.0  # nothing to find; the latest such weights are kept until there is a real figure


MAX_SKIPPED = 20  # steps of a run that may be left out; more are no accident


MAX_REPLACED, MIN_REPLACED = 0.01, 10  # images that may be unreadable: a share of all, and so many in any case


GPU_VOTE_INTERVAL = 10  # steps; torchrun kills what has not left 30 s after a signal


@dataclass
class Progress:
    """Position of a run. `batch` counts those of the current epoch that are done."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_ap: float = UNDEFINED_AP
    skipped: int = 0  # steps that were left out because something in them was not finite


class PendingStep(NamedTuple):
    """A step that is done, and what is not known of it yet: on a GPU values are looked at now and then."""

    step: int
    epoch: int
    indices: list[int]
    image_ids: list[ImageId]
    loss: Tensor
    nonfinite: Tensor  # see `TrainStep.update`


@dataclass
class Trainer:
    """Everything that one run needs, ready made; `run` is the loop.

    `validate` takes the model to evaluate and gives its figures, with "AP" among them where it is defined ({} in
    all processes but the main one). `header` is what every checkpoint says of itself: config and classes.

    A run that was killed and resumed ends with the weights and the log of one that was not, to the bit on a CPU
    with the same number of threads: what a sample looks like follows from (seed, epoch, index), and everything else
    that a step depends on is in `last.pt`.
    """

    step: TrainStep
    loader: DataLoader[Any]
    validate: Callable[[nn.Module, int], Mapping[str, Any]]
    run_dir: Path
    header: Mapping[str, Any]
    epochs: int
    log_interval: int
    val_interval: int
    save_interval: int = 0  # steps between checkpoints within an epoch; 0 for none
    keep: int = 1  # checkpoints to resume from that are kept, the newest with them
    on_nonfinite: Literal["stop", "skip"] = "stop"
    finish: Callable[[Batch], Batch] = lambda batch: batch  # makes images where the loader gives drafts
    logbook: Logbook | None = None  # in the main process
    on_step: Callable[[Progress, float], None] | None = None  # for a progress bar: progress, loss
    on_best: Callable[[], None] | None = None  # in the main process, once `best.pt` holds what was just validated

    def __post_init__(self) -> None:
        self.progress = Progress()
        self.device = self.step.device
        self.meter = Meter()
        self.last_means: dict[str, float] = {}
        self.unchecked: list[PendingStep] = []
        self.reported: set[str] = set()  # of images that could not be read

    def run(self) -> bool:
        """Train to the last epoch; False when a signal ended it early, with everything saved."""
        with Interrupt() as interrupt:
            while self.progress.epoch < self.epochs:
                if not self._train_epoch(interrupt):
                    self._save_last()
                    return False
                self._announce()
                number = self.progress.epoch + 1
                if number % self.val_interval == 0 or number == self.epochs:
                    self._save_last()  # validation is long, and may fail
                    self._validate()
                self.progress.epoch += 1
                self.progress.batch = 0
                self._save_last()
        return True

    def _train_epoch(self, interrupt: Interrupt) -> bool:
        """The rest of the current epoch; False when it was interrupted."""
        self.step.network.train()
        self._position_sampler()
        for batch in self.meter.timed(on_device(self.loader, self.device, self.finish)):
            self._report_problems(batch.problems)
            terms = self._take_step(batch)
            self.progress.batch += 1
            self.progress.step += 1
            self.meter.count(terms, len(batch.images) * world_size())
            if self.progress.step % self.log_interval == 0:
                self._log()
            if self.save_interval and self.progress.step % self.save_interval == 0:
                self._check_finite()
                self._save_last()
            # Processes must agree on leaving. Asking stalls a GPU, so there it is done now and then.
            asked = self.device.type == "cpu" or world_size() == 1 or self.progress.step % GPU_VOTE_INTERVAL == 0
            if asked and any_process(interrupt.requested, self.device):
                self._check_finite()
                return False
        self._log()  # the rest of the epoch, so that a short one is seen too
        return not any_process(interrupt.requested, self.device)

    def _report_problems(self, problems: Sequence[str]) -> None:
        """Say once which images have others in their place; stop where there are too many."""
        for problem in problems:
            if problem not in self.reported:
                self.reported.add(problem)
                # The other processes say no less than errors.
                level = logging.WARNING if is_main() else logging.ERROR
                logger.log(level, "%s; another image is in its place from now on", problem)
        most = max(MIN_REPLACED, int(MAX_REPLACED * len(self.loader.dataset)))  # type: ignore[arg-type]
        if len(self.reported) > most:
            raise UserError(
                f"more than {most} images cannot be read; 'ssdlite check-data' names them all. What was saved "
                "before is whole."
            )

    def _take_step(self, batch: Batch) -> LossTerms:
        terms = self.step.gradients(batch)
        loss = torch.stack(list(terms.values())).sum()
        nonfinite = self.step.update(loss)
        where = self.progress.step + 1, self.progress.epoch
        self.unchecked.append(PendingStep(*where, batch.indices, batch.image_ids, loss, nonfinite))
        if self.device.type == "cpu":  # elsewhere looking at the value would wait for the device
            self._check_finite()
        if self.on_step:
            self.on_step(self.progress, loss.item() if self.device.type == "cpu" else float("nan"))
        return terms

    def _check_finite(self) -> None:
        """Answer for the steps since the last call that had to be left out."""
        seen, self.unchecked = self.unchecked, []
        if seen and bool(torch.stack([one.nonfinite for one in seen]).any()):
            for one in seen:
                if one.nonfinite:
                    self._answer_for(one)

    def _answer_for(self, seen: PendingStep) -> None:
        """Count a step that was left out; stop where that is asked for, or where there are too many."""
        self.progress.skipped += 1
        loss = seen.loss.item()
        what = "a gradient became infinite or no number" if math.isfinite(loss) else f"the loss became {loss}"
        what = f"step {seen.step}: {what} on images {', '.join(map(str, seen.image_ids))}"
        if self.on_nonfinite == "skip" and self.progress.skipped <= MAX_SKIPPED:
            count = self.progress.skipped
            logger.warning("%s; the step is left out (%d of at most %d)", what, count, MAX_SKIPPED)
            return
        suffix = f"-process{rank()}" if world_size() > 1 else ""
        folder = self.run_dir / f"nonfinite-{seen.step:06d}{suffix}"
        batch = self.finish(sample_batch(self.loader, seen.epoch, seen.indices).to(self.device))
        facts: dict[str, Any] = {
            "step": seen.step,
            "epoch": seen.epoch,
            "loss": loss,
            "skipped": self.progress.skipped,
        }
        facts["lr"] = [group["lr"] for group in self.step.optimizer.param_groups]
        cause = record_failure(folder, self.step, batch, self.header["classes"], facts)
        raise UserError(
            f"{what}. Likely: {cause}. The batch is in {folder}; what was saved before is whole, "
            "and --resume train.on_nonfinite=skip leaves such steps out."
        )

    def _log(self) -> None:
        self._check_finite()
        means = self.meter.take()
        self.last_means = means or self.last_means
        if self.logbook and means:
            state = {
                "epoch": self.progress.epoch,
                "lr": max(group["lr"] for group in self.step.optimizer.param_groups),
            }
            self.logbook.log("train", self.progress.step, {**state, **means})
            self.logbook.watch("learning_rate", self.progress.step, self._part_rates())

    def _part_rates(self) -> dict[str, float]:
        """Learning rates of the network's parts; in the log there is the highest."""
        groups = self.step.optimizer.param_groups
        parts = groups_of_parts(self.step.model, self.step.optimizer)
        return {part: groups[number]["lr"] for part, number in parts.items()}

    def _announce(self) -> None:
        """One line an epoch, which also those see who watch a file."""
        means = self.last_means
        if means:
            logger.info(
                "epoch %d of %d: loss %.3f, %.0f images/s, %.0f %% of the time waiting for data",
                self.progress.epoch + 1,
                self.epochs,
                means["loss"],
                means["images_per_second"],
                100 * means["waiting_for_data"],
            )

    def _validate(self) -> None:
        evaluated = self._evaluated()
        synchronize_buffers(evaluated)
        figures = self.validate(evaluated, self.progress.step)
        ap = float(figures.get("AP", UNDEFINED_AP))
        if is_main() and self.logbook:
            self.logbook.log("val", self.progress.step, {"epoch": self.progress.epoch + 1, **figures})
            if ap >= self.progress.best_ap:
                save_checkpoint(self.run_dir / "best.pt", self._shipped(figures))
                if self.on_best:
                    self.on_best()
        self.progress.best_ap = broadcast(max(self.progress.best_ap, ap))
        self.meter = Meter()

    def _evaluated(self) -> nn.Module:
        """The model that is validated and shipped: the average of the weights, where there is one."""
        return self.step.ema.module if self.step.ema else self.step.model

    def _shipped(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.header, "weights": self._evaluated().state_dict(), "metrics": dict(figures)}

    def _save_last(self) -> None:
        if not is_main():
            return
        training = {
            "progress": asdict(self.progress),
            "meter": self.meter.state_dict(),
            "random": random_state(),
            "log_lines": self.logbook.num_lines if self.logbook else 0,
            **self.step.state_dict(),
        }
        save_newest(self.run_dir, {**self._shipped({}), "training": training}, keep=self.keep)

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue where the `last.pt` that `checkpoint` holds was written.

        Raises CheckpointError when it was written under other options.
        """
        training = checkpoint["training"]
        require_same_run(checkpoint, self.header)
        try:
            self.step.load_state_dict(training, averaged=checkpoint["weights"])
            self.progress = Progress(**training["progress"])
            self.meter.load_state_dict(training.get("meter", []))
            if "random" in training:
                set_random_state(training["random"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(
                f"{self.run_dir / 'last.pt'} was trained with other classes or model options; resume with its own "
                f"{self.run_dir / 'config.yaml'}."
            ) from None

    def _position_sampler(self) -> None:
        batch_size = self.loader.batch_size or 1
        self.loader.sampler.set_epoch(self.progress.epoch, start=self.progress.batch * batch_size)  # type: ignore[attr-defined]
