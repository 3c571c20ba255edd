"""Means over the steps between two lines of the log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ssdlite.errors import UserError
from ssdlite.structures import Batch, LossTerms


class Meter:
    """Loss terms, images a second, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self._restart()

    def timed(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of `loader`; waiting for them is timed. A dead loader process becomes a UserError."""
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

    def count(self, terms: LossTerms, images: int) -> None:
        """Add a step; its loss terms are not looked at before `take`, so that a GPU need not be waited for."""
        self._terms.append(terms)
        self._images += images

    def take(self) -> dict[str, float]:
        """The means since the last call; {} if there was no step."""
        names, rows = self._names(), self._rows()
        if not names:
            return {}
        seconds = time.perf_counter() - self._start
        finite = rows[rows.isfinite().all(dim=1)]  # the others were steps that are left out
        means = dict(zip(names, finite.mean(dim=0).tolist(), strict=True))
        rates = {"images_per_second": self._images / seconds, "waiting_for_data": self._waited / seconds}
        self._restart()
        return {"loss": sum(means.values()), **means, **rates}

    def state_dict(self) -> list[dict[str, float]]:
        """The loss terms that `take` has not had yet; times are not worth keeping."""
        return [dict(zip(self._names(), row, strict=True)) for row in self._rows().tolist()]

    def load_state_dict(self, state: list[dict[str, float]]) -> None:
        self._restored[:] = [dict(terms) for terms in state]
        self._terms.clear()

    def _names(self) -> list[str]:
        return list(next(iter([*self._restored, *self._terms]), {}))

    def _rows(self) -> Tensor:
        """(steps, terms) float32 on the CPU: one copy of what lies on the device, after what was restored."""
        names = self._names()
        rows = torch.tensor([[terms[name] for name in names] for terms in self._restored]).view(
            len(self._restored), len(names)
        )
        if not self._terms:
            return rows
        counted = torch.stack([torch.stack([terms[name] for name in names]) for terms in self._terms])
        return torch.cat([rows, counted.cpu()])

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._waited, self._images = 0.0, 0
        self._restored: list[dict[str, float]] = []  # numbers, so that it does not matter where they were computed
        self._terms: list[LossTerms] = []
