"""The training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ssdlite.errors import CheckpointError, UserError
from ssdlite.structures import Batch, ImageId, LossTerms
from ssdlite.training.checkpoint import require_same_run, save_checkpoint
from ssdlite.training.distributed import any_process, broadcast, is_main, synchronize_buffers, world_size
from ssdlite.training.interrupt import Interrupt
from ssdlite.training.logbook import Logbook
from ssdlite.training.meter import Meter
from ssdlite.training.prefetch import on_device
from ssdlite.training.step import TrainStep

logger = logging.getLogger(__name__)

UNDEFINED_AP = -1.0  # nothing to find; the latest such weights are kept until there is a real figure
GPU_VOTE_INTERVAL = 10  # steps; torchrun kills what has not left 30 s after a signal


@dataclass
class Progress:
    """Where a run stands. `batch` counts those of the current epoch that are done."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_ap: float = UNDEFINED_AP


@dataclass
class Trainer:
    """Everything that one run needs, ready made; `run` is the loop.

    `validate` takes the model to judge and gives its figures, with "AP" among them where it is defined ({} in all
    processes but the main one). `header` is what every checkpoint says of itself: config and classes.
    """

    step: TrainStep
    loader: DataLoader[Any]
    validate: Callable[[nn.Module, int], Mapping[str, Any]]
    run_dir: Path
    header: Mapping[str, Any]
    epochs: int
    log_interval: int
    val_interval: int
    logbook: Logbook | None = None  # in the main process
    on_step: Callable[[Progress, float], None] | None = None  # for a progress bar: progress, loss

    def __post_init__(self) -> None:
        self.progress = Progress()
        self.device = self.step.device
        self.meter = Meter()
        self.last_means: dict[str, float] = {}
        self.unchecked: list[tuple[Tensor, list[ImageId]]] = []  # losses not looked at yet

    def run(self) -> bool:
        """Train to the last epoch; False when a signal ended it early, with everything saved."""
        with Interrupt() as interrupt:
            while self.progress.epoch < self.epochs:
                if not self._train_epoch(interrupt):
                    self._save_last()
                    return False
                self._announce()
                self.progress.epoch += 1
                self.progress.batch = 0
                if self.progress.epoch % self.val_interval == 0 or self.progress.epoch == self.epochs:
                    self._validate()
                self._save_last()
        return True

    def _train_epoch(self, interrupt: Interrupt) -> bool:
        """The rest of the current epoch; False when it was interrupted."""
        self.step.network.train()
        self._position_sampler()
        for batch in self.meter.timed(on_device(self.loader, self.device)):
            terms = self._take_step(batch)
            self.progress.batch += 1
            self.progress.step += 1
            self.meter.count(terms, len(batch.images) * world_size())
            if self.progress.step % self.log_interval == 0:
                self._log()
            # Processes must agree on leaving. Asking stalls a GPU, so there it is done now and then.
            asked = self.device.type == "cpu" or world_size() == 1 or self.progress.step % GPU_VOTE_INTERVAL == 0
            if asked and any_process(interrupt.requested, self.device):
                self._check_finite()
                return False
        self._log()  # the rest of the epoch, so that a short one is seen too
        return not any_process(interrupt.requested, self.device)

    def _take_step(self, batch: Batch) -> LossTerms:
        terms = self.step.gradients(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.unchecked.append((loss, batch.image_ids))
        if self.device.type == "cpu":  # elsewhere looking at the value would wait for the device
            self._check_finite()
        self.step.update()
        if self.on_step:
            self.on_step(self.progress, loss.item() if self.device.type == "cpu" else float("nan"))
        return terms

    def _check_finite(self) -> None:
        """Stop on a loss that is not a number, with the names of the images that gave it."""
        losses = torch.stack([loss for loss, _ in self.unchecked]) if self.unchecked else torch.zeros(1)
        checked, self.unchecked = self.unchecked, []
        if bool(losses.isfinite().all()):
            return
        value, image_ids = next((loss, ids) for loss, ids in checked if not loss.isfinite())
        raise UserError(
            f"the loss became {value.item()} near step {self.progress.step + 1}, on images "
            f"{', '.join(map(str, image_ids))}; look at these images or lower optim.lr. "
            f"What was saved before is whole."
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
        judged = self._judged()
        synchronize_buffers(judged)
        figures = self.validate(judged, self.progress.step)
        ap = float(figures.get("AP", UNDEFINED_AP))
        if is_main() and self.logbook:
            self.logbook.log("val", self.progress.step, {"epoch": self.progress.epoch, **figures})
            if ap >= self.progress.best_ap:
                save_checkpoint(self.run_dir / "best.pt", self._shipped(figures))
        self.progress.best_ap = broadcast(max(self.progress.best_ap, ap))
        self.meter = Meter()

    def _judged(self) -> nn.Module:
        """The model that is validated and shipped: the average of the weights, where there is one."""
        return self.step.ema.module if self.step.ema else self.step.model

    def _shipped(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.header, "weights": self._judged().state_dict(), "metrics": dict(figures)}

    def _save_last(self) -> None:
        if not is_main():
            return
        training = {"progress": asdict(self.progress), **self.step.state_dict()}
        save_checkpoint(self.run_dir / "last.pt", {**self._shipped({}), "training": training})

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue where the `last.pt` that `checkpoint` holds was written.

        Raises CheckpointError when it was written under other options.
        """
        training = checkpoint["training"]
        require_same_run(checkpoint, self.header)
        try:
            self.step.load_state_dict(training, averaged=checkpoint["weights"])
        except (RuntimeError, ValueError, KeyError):
            raise CheckpointError(
                f"{self.run_dir / 'last.pt'} was trained with other classes or model options; resume with its own "
                f"{self.run_dir / 'config.yaml'}."
            ) from None
        self.progress = Progress(**training["progress"])

    def _position_sampler(self) -> None:
        batch_size = self.loader.batch_size or 1
        self.loader.sampler.set_epoch(self.progress.epoch, start=self.progress.batch * batch_size)  # type: ignore[attr-defined]
