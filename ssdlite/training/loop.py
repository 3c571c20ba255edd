"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from ssdlite.errors import CheckpointError, UserError
from ssdlite.structures import Batch
from ssdlite.training.checkpoint import save_checkpoint
from ssdlite.training.distributed import any_process, broadcast, is_main, world_size
from ssdlite.training.interrupt import Interrupt
from ssdlite.training.logbook import Logbook

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a run stands. `batch` counts those of the current epoch that are done."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_ap: float = -1.0


@dataclass
class Trainer:
    """Everything that one run needs, ready made; `run` is the loop.

    `validate` takes the model to judge and gives its figures with "AP" among them ({} in all processes but the
    main one). `header` is what every checkpoint says of itself: config and classes.
    """

    model: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    ema: AveragedModel | None
    loader: DataLoader[Any]
    validate: Callable[[nn.Module, int], Mapping[str, Any]]
    run_dir: Path
    header: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    epochs: int
    clip_norm: float
    log_interval: int
    val_interval: int
    logbook: Logbook | None = None  # in the main process
    on_step: Callable[[Progress, float], None] | None = None  # for a progress bar: progress, loss

    def __post_init__(self) -> None:
        self.progress = Progress()
        self.scaler = GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        self.wrapped = self._wrap()
        self.meter = _Meter()
        self.unchecked: list[tuple[Tensor, Batch]] = []

    def run(self) -> bool:
        """Train to the last epoch; False when a signal ended it early, with everything saved."""
        with Interrupt() as interrupt:
            while self.progress.epoch < self.epochs:
                if not self._train_epoch(interrupt):
                    self._save_last()
                    return False
                self.progress.epoch += 1
                self.progress.batch = 0
                if self.progress.epoch % self.val_interval == 0 or self.progress.epoch == self.epochs:
                    self._validate()
                self._save_last()
        return True

    def _train_epoch(self, interrupt: Interrupt) -> bool:
        """The rest of the current epoch; False when it was interrupted."""
        self.wrapped.train()
        self._position_sampler()
        for batch in self.meter.timed(self.loader):
            terms = self._step(batch)
            self.progress.batch += 1
            self.progress.step += 1
            at_interval = self.progress.step % self.log_interval == 0
            if at_interval:
                self._log(terms)
            # Processes must agree on leaving; asking at every step would stall a GPU.
            if (at_interval or world_size() == 1) and any_process(interrupt.requested, self.device):
                return False
        self._check_finite()
        return not any_process(interrupt.requested, self.device)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        batch = batch.to(self.device)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            output = self.wrapped(images)
        terms: dict[str, Tensor] = self.criterion(output, batch.boxes, batch.labels, batch.ignore)
        loss = torch.stack(list(terms.values())).sum()
        self.unchecked.append((loss.detach(), batch))
        if self.device.type == "cpu":  # elsewhere looking at the value would wait for the device
            self._check_finite()

        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema:
            self.ema.update_parameters(self.model)
        self.meter.count(len(batch.images) * world_size())
        if self.on_step:
            self.on_step(self.progress, loss.item() if self.device.type == "cpu" else float("nan"))
        return {name: term.detach() for name, term in terms.items()}

    def _check_finite(self) -> None:
        """Stop on a loss that is not a number, with the names of the images that gave it."""
        losses = torch.stack([loss for loss, _ in self.unchecked]) if self.unchecked else torch.zeros(1)
        checked, self.unchecked = self.unchecked, []
        if bool(losses.isfinite().all()):
            return
        value, batch = next((loss, batch) for loss, batch in checked if not loss.isfinite())
        raise UserError(
            f"the loss became {value.item()} near step {self.progress.step + 1}, on images "
            f"{', '.join(map(str, batch.image_ids))}; look at these images or lower optim.lr. "
            f"What was saved before is whole."
        )

    def _log(self, terms: Mapping[str, Tensor]) -> None:
        self._check_finite()
        rates = self.meter.take()
        if self.logbook:
            values = {name: term.item() for name, term in terms.items()}
            lr = self.optimizer.param_groups[0]["lr"]
            line = {"epoch": self.progress.epoch, "loss": sum(values.values()), **values, "lr": lr, **rates}
            self.logbook.log("train", self.progress.step, line)

    def _validate(self) -> None:
        judged = self._judged()
        figures = self.validate(judged, self.progress.step)
        ap = float(figures.get("AP", -1.0))
        if is_main() and self.logbook:
            self.logbook.log("val", self.progress.step, {"epoch": self.progress.epoch, **figures})
            if ap > self.progress.best_ap or not (self.run_dir / "best.pt").exists():
                save_checkpoint(self.run_dir / "best.pt", self._shipped(figures))
        # NaN (no objects to find) never counts as better.
        self.progress.best_ap = broadcast(max(self.progress.best_ap, ap) if ap == ap else self.progress.best_ap)
        self.meter = _Meter()

    def _judged(self) -> nn.Module:
        """The model that is validated and shipped: the average of the weights, where there is one."""
        return self.ema.module if self.ema else self.model

    def _shipped(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.header, "weights": self._judged().state_dict(), "metrics": dict(figures)}

    def _save_last(self) -> None:
        if not is_main():
            return
        training = {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "num_averaged": int(self.ema.n_averaged) if self.ema else 0,
        }
        save_checkpoint(self.run_dir / "last.pt", {**self._shipped({}), "training": training})

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue where the `last.pt` that `checkpoint` holds was written.

        Raises CheckpointError when it was written under other options.
        """
        training = checkpoint["training"]
        try:
            self.model.load_state_dict(training["model"])
            self.optimizer.load_state_dict(training["optimizer"])
        except (RuntimeError, ValueError):
            raise CheckpointError(
                f"{self.run_dir / 'last.pt'} was trained with other classes or model options; resume with its own "
                f"{self.run_dir / 'config.yaml'}."
            ) from None
        self.schedule.load_state_dict(training["schedule"])
        self.scaler.load_state_dict(training["scaler"])
        self.progress = Progress(**training["progress"])
        if self.ema:
            self.ema.module.load_state_dict(checkpoint["weights"])
            self.ema.n_averaged.fill_(training["num_averaged"])

    def _position_sampler(self) -> None:
        batch_size = self.loader.batch_size or 1
        self.loader.sampler.set_epoch(self.progress.epoch, start=self.progress.batch * batch_size)  # type: ignore[attr-defined]

    def _wrap(self) -> nn.Module:
        if world_size() == 1:
            return self.model
        return DistributedDataParallel(self.model, device_ids=[self.device] if self.device.type == "cuda" else None)


class _Meter:
    """Images a second, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._images = 0

    def timed(self, loader: DataLoader[Any]) -> Iterator[Batch]:
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise UserError(
                    f"a loader process died ({error}); if memory ran out, lower data.workers or train.batch_size."
                ) from None
            self._waited += time.perf_counter() - asked
            yield batch

    def count(self, images: int) -> None:
        self._images += images

    def take(self) -> dict[str, float]:
        """The rates since the last call."""
        seconds = time.perf_counter() - self._start
        rates = {"images_per_second": self._images / seconds, "waiting_for_data": self._waited / seconds}
        self._start, self._waited, self._images = time.perf_counter(), 0.0, 0
        return rates
