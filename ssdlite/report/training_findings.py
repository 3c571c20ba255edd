"""Rules about a training and its data: what can be said without judging anything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ssdlite.report.content import Finding, Report
from ssdlite.report.wording import count, counted, figure, percent

POOR_FIT = 0.95  # share of the objects that should have a prior at IoU .5
WAITING = 0.2  # share of the time
STILL_RISING = 0.01  # AP between the last two validations
FALLEN = 0.02  # AP below the best
SHIFT = 1.4  # times that the median size differs between the splits


def _unfinished(report: Report) -> Finding | None:
    epochs = report.history.train.get("epoch")
    if epochs is None or not report.epochs or epochs.values[-1] + 1 >= report.epochs:
        return None
    text = f"Training is not done: the log ends in epoch {int(epochs.values[-1]) + 1} of {report.epochs}."
    return Finding(text, "The same command with --resume continues it.", "training", 4)


def _poor_fit(report: Report) -> Finding | None:
    fit = report.fit
    if fit is None or not fit.num_objects or fit.reached >= POOR_FIT:
        return None
    text = f"Only {percent(fit.reached)} of the training objects have a prior that overlaps them by IoU .5"
    text += f", and {percent(fit.unmatched)} are learnt by none." if fit.unmatched else "."
    advice = "Fit the priors to the data: ssdlite fit-priors CONFIG, or model.priors=auto."
    return Finding(text, advice, "priors", 3 + 5 * (POOR_FIT - fit.reached))


def _still_rising(report: Report) -> Finding | None:
    ap = report.history.val.get("AP")
    if ap is None or len(ap) < 2 or not np.isfinite(ap.values[-2:]).all():
        return None
    last, before, best = ap.values[-1], ap.values[-2], np.nanmax(ap.values)
    if last >= best and last - before >= STILL_RISING:
        text = f"AP still rose by {figure(last - before)} between the last two validations, to {figure(last)}."
        return Finding(text, "Train longer (train.epochs).", "training", 2.5 + 5 * (last - before))
    if best - last >= FALLEN:
        step = int(ap.steps[int(np.nanargmax(ap.values))])
        text = f"AP was best at step {count(step)}, {figure(best)}, and fell to {figure(last)} by the end."
        advice = "best.pt holds the better weights; train shorter, or augment more."
        return Finding(text, advice, "training", 2 + 5 * (best - last))
    return None


def _waiting(report: Report) -> Finding | None:
    series = report.history.train.get("waiting_for_data")
    if series is None:
        return None
    share = float(np.nanmean(series.values[len(series) // 2 :]))
    if not share >= WAITING:
        return None
    text = f"Training waits for data {percent(share)} of the time."
    return Finding(text, "Set data.cache=memory (or disk), or more data.workers.", "training", 1 + share)


def _shared_images(report: Report) -> Finding | None:
    if not report.num_shared:
        return None
    text = f"{counted(report.num_shared, 'image file is', 'image files are')} in both splits."
    return Finding(text, "Take them out of one: figures on known images promise too much.", "data", 5)


def _other_sizes(report: Report) -> Finding | None:
    train, val = report.data.get("train"), report.data.get("val")
    if not train or not val or not train.total or not val.total:
        return None
    ours, theirs = float(np.median(train.sides)), float(np.median(val.sides))
    if not min(ours, theirs) > 0 or max(ours, theirs) / min(ours, theirs) < SHIFT:
        return None
    text = (
        f"The middle object takes {percent(ours, 1)} of the image's side in the training images, and "
        f"{percent(theirs, 1)} in the validation images."
    )
    return Finding(text, "Make the two alike, or expect other figures in use.", "data", 1.8)


TRAINING_RULES: tuple[Callable[[Report], Finding | None], ...] = (
    _unfinished,
    _poor_fit,
    _still_rising,
    _waiting,
    _shared_images,
    _other_sizes,
)
