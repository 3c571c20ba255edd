"""Rules that derive recommendations from a training, its data and its detections.

A rule takes the report and returns a recommendation with the figure that it rests on, or None. Quantities that were
not measured give no recommendation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ssdlite.evaluation.analysis import Analysis, ClassFigures
from ssdlite.evaluation.curves import Calibration
from ssdlite.evaluation.errors import ErrorType
from ssdlite.report.data import Recommendation, ReportData
from ssdlite.report.formatting import count, counted, figure, listed, named, percent
from ssdlite.report.summary import ERROR_PLURALS, comparable_classes, evaluated_classes, failing_sizes, size_words

MOST = 8  # recommendations on a page


def find(report: ReportData) -> list[Recommendation]:
    """Return the recommendations of all rules by falling weight, MOST at most."""
    found = [recommendation for rule in TRAINING_RULES if (recommendation := rule(report))]
    if report.evaluated:
        analysis = report.evaluated.analysis
        found += [recommendation for rule in DETECTION_RULES if (recommendation := rule(analysis, report))]
    return sorted(found, key=lambda recommendation: -recommendation.weight)[:MOST]


POOR_FIT = 0.95  # share of the objects that should have a prior at IoU .5


WAITING = 0.2  # share of the time


STILL_RISING = 0.01  # AP between the last two validations


FALLEN = 0.02  # AP below the best


SHIFT = 1.4  # ratio of the median object sizes of the two splits


def _unfinished(report: ReportData) -> Recommendation | None:
    epochs = report.history.train.get("epoch")
    if epochs is None or not report.epochs or epochs.values[-1] + 1 >= report.epochs:
        return None
    text = f"Training is unfinished: the log ends in epoch {int(epochs.values[-1]) + 1} of {report.epochs}."
    return Recommendation(text, "Continue it with the same command and --resume.", "training", 4)


def _poor_fit(report: ReportData) -> Recommendation | None:
    fit = report.fit
    if fit is None or not fit.num_objects or fit.reached >= POOR_FIT:
        return None
    text = f"Only {percent(fit.reached)} of the training objects have a prior with IoU .5 or more"
    text += f", and {percent(fit.unmatched)} are assigned to no prior." if fit.unmatched else "."
    advice = "Fit the priors to the data: run ssdlite fit-priors CONFIG, or train with model.priors=auto."
    return Recommendation(text, advice, "priors", 3 + 5 * (POOR_FIT - fit.reached))


def _still_rising(report: ReportData) -> Recommendation | None:
    ap = report.history.val.get("AP")
    if ap is None or len(ap) < 2 or not np.isfinite(ap.values[-2:]).all():
        return None
    last, before, best = ap.values[-1], ap.values[-2], np.nanmax(ap.values)
    if last >= best and last - before >= STILL_RISING:
        text = f"AP still rose by {figure(last - before)} between the last two validations, to {figure(last)}."
        return Recommendation(text, "Train longer (train.epochs).", "training", 2.5 + 5 * (last - before))
    if best - last >= FALLEN:
        step = int(ap.steps[int(np.nanargmax(ap.values))])
        text = f"AP was best at step {count(step)}, {figure(best)}, and fell to {figure(last)} by the end."
        advice = "Use best.pt, which holds the better weights; train for fewer epochs, or augment more."
        return Recommendation(text, advice, "training", 2 + 5 * (best - last))
    return None


def _waiting(report: ReportData) -> Recommendation | None:
    series = report.history.train.get("waiting_for_data")
    if series is None:
        return None
    share = float(np.nanmean(series.values[len(series) // 2 :]))
    if not share >= WAITING:
        return None
    text = f"Training waits for data {percent(share)} of the time."
    return Recommendation(text, "Set data.cache=memory (or disk), or raise data.workers.", "training", 1 + share)


def _shared_images(report: ReportData) -> Recommendation | None:
    if not report.num_shared:
        return None
    text = f"{counted(report.num_shared, 'image file is', 'image files are')} in both splits."
    advice = "Remove them from one of the two: figures on images that were trained on are too high."
    return Recommendation(text, advice, "data", 5)


def _other_sizes(report: ReportData) -> Recommendation | None:
    train, val = report.data.get("train"), report.data.get("val")
    if not train or not val or not train.total or not val.total:
        return None
    trained, validated = float(np.median(train.sides)), float(np.median(val.sides))
    if not min(trained, validated) > 0 or max(trained, validated) / min(trained, validated) < SHIFT:
        return None
    text = (
        f"The median object has {percent(trained, 1)} of the image's side in the training images, and "
        f"{percent(validated, 1)} in the validation images."
    )
    advice = "Split the data so that both have objects of the sizes that occur in use."
    return Recommendation(text, advice, "data", 1.8)


TRAINING_RULES: tuple[Callable[[ReportData], Recommendation | None], ...] = (
    _unfinished,
    _poor_fit,
    _still_rising,
    _waiting,
    _shared_images,
    _other_sizes,
)


COSTLY = 0.03  # AP50 that an error type must cost


CLASS_GAP = 0.1  # AP between the weakest class and the mean of the others


MANY_CONFUSED = 0.05  # share of the objects of a class


LEAST_CONFUSED = 5  # objects of a class


HIT_EMPTY = 0.1  # share of the images without objects that have a false positive


FEW_EMPTY = 10  # images without objects, below which no share is reported


FEW_OBJECTS = 30  # objects of a class, below which its figures are called uncertain


UNCALIBRATED = 0.1  # expected calibration error: mean difference between score and precision


ERROR_ADVICE: dict[ErrorType, str] = {
    "missed": "Look up their sizes and classes; a larger input, fitted priors or more images with them help.",
    "wrong class": "Look at the confusion matrix, and check the labels of the classes that are confused.",
    "badly placed": "Check how tight the labelled boxes are; try loss.box_loss=giou, or a larger model.input_size.",
    "both": "Check the labels of the classes that are confused, and train longer.",
    "duplicate": "Lower eval.iou_threshold, so that suppression removes more overlapping boxes.",
    "background": "Check whether they are unlabelled objects; if not, train on images without objects too.",
}


def _nothing_correct(analysis: Analysis, report: ReportData) -> Recommendation | None:
    if analysis.pooled.right.any() or not evaluated_classes(analysis):
        return None
    kept = sum(len(found.scores) for found in report.evaluated.detections) if report.evaluated else 0
    text = (
        f"None of its {counted(kept, 'detection')} is correct." if kept else "It detects nothing at any threshold."
    )
    advice = (
        "Train longer if the loss still falls; if it does not, check the learning rate (optim.lr) and the labels."
    )
    return Recommendation(text, advice, "training", 100)


def _nothing_to_find(analysis: Analysis, report: ReportData) -> Recommendation | None:
    if evaluated_classes(analysis):
        return None
    text = f"None of the {counted(analysis.num_images, 'image')} has an object that counts, so there is no AP."
    return Recommendation(text, "Evaluate on images that have objects.", "data", 100)


def _costliest_error(analysis: Analysis, report: ReportData) -> Recommendation | None:
    costs = {kind: cost for kind, cost in analysis.delta_ap.items() if math.isfinite(cost)}
    kind = max(costs, key=lambda kind: costs[kind], default=None)
    if kind is None or costs[kind] < COSTLY:
        return None
    number = count(analysis.errors.get(kind, 0))
    text = (
        f"{ERROR_PLURALS[kind].capitalize()} cost the most ({number} at the recommended threshold): without them "
        f"AP50 would be {figure(costs[kind], 2)} higher."
    )
    return Recommendation(text, ERROR_ADVICE[kind], "errors", 3 + 10 * costs[kind])


def _failing_size(analysis: Analysis, report: ReportData) -> Recommendation | None:
    failing = failing_sizes(analysis)
    if failing is None or not failing[0]:
        return None
    buckets, best = failing
    objects = sum(bucket.total for bucket in buckets)
    share = objects / sum(bucket.total for bucket in analysis.relative_sizes.buckets)
    recall = sum(bucket.total * bucket.mean_recall50 for bucket in buckets) / objects
    sizes = listed([size_words(bucket) for bucket in buckets])
    text = (
        f"{percent(share)} of the objects have a size at which it fails, {sizes} of the image's side: it can find "
        f"{percent(recall)} of them, but {percent(best.mean_recall50)} of those {size_words(best)}."
    )
    advice = "Train on more images with objects of that size."
    if buckets[0].low < best.low:
        now = f" (now {report.input_size[1]}x{report.input_size[0]})" if report.input_size else ""
        advice = f"Raise model.input_size{now}, or cut large images into tiles."
    return Recommendation(text, advice, "sizes", 2 + 6 * share * (best.mean_recall50 - recall))


def _weak_class(analysis: Analysis, report: ReportData) -> Recommendation | None:
    rows = comparable_classes(analysis)
    if len(rows) < 2:
        return None
    weakest, mean = rows[0], float(np.mean([row.ap for row in rows[1:]]))
    if mean - weakest.ap < CLASS_GAP:
        return None
    others = f"of {named(rows[1].name)}" if len(rows) == 2 else "of the others on average"
    text = f"{named(weakest.name)} is the weakest class: AP {figure(weakest.ap)}, against {figure(mean)} {others}."
    return Recommendation(text, _class_advice(weakest, report), "classes", 2 + 2 * (mean - weakest.ap))


def _class_advice(weakest: ClassFigures, report: ReportData) -> str:
    train = report.data.get("train")
    if train:
        objects = train.num_objects.get(weakest.name, 0)
        typical = float(np.median(list(train.num_objects.values())))
        if objects < typical / 2:
            return (
                f"Label more objects of it (it has {counted(objects, 'training object')}, the median class has "
                f"{count(typical)}), or try loss.class_weights=balanced."
            )
    kind = max(weakest.errors, key=lambda kind: weakest.errors[kind], default=None)
    if kind is None or not weakest.errors[kind]:
        return "Look at its precision-recall curve."
    return f"Most of its errors are {ERROR_PLURALS[kind]} ({count(weakest.errors[kind])})."


def _confused_pair(analysis: Analysis, report: ReportData) -> Recommendation | None:
    confusion = analysis.confusion
    counts = confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    if not counts.size or counts.max() < LEAST_CONFUSED:
        return None
    i, j = np.unravel_index(int(counts.argmax()), counts.shape)
    share = float(counts[i, j] / confusion.counts[i].sum())
    if share < MANY_CONFUSED:
        return None
    pair = named(confusion.names[i]), named(confusion.names[j])
    times = count(int(counts[i, j]))
    text = f"{pair[0]} is detected as {pair[1]} {times} times, which is {percent(share)} of its objects."
    advice = "Check the labels of both classes, and add images that show the difference."
    return Recommendation(text, advice, "confusion", 2 + 4 * share)


def _false_positives(analysis: Analysis, report: ReportData) -> Recommendation | None:
    false_positives = analysis.false_positives
    if false_positives.num_empty < FEW_EMPTY or not false_positives.share_of_empty_hit >= HIT_EMPTY:
        return None
    text = (
        f"{percent(false_positives.share_of_empty_hit)} of the {counted(false_positives.num_empty, 'image')} "
        "without objects have a false positive at the recommended threshold, "
        f"{figure(false_positives.per_empty_image_here, 2)} per image."
    )
    train = report.data.get("train")
    has = f" (it has {count(train.num_empty)})" if train else ""
    advice = f"Add images without objects to the training set{has}, or use a higher threshold."
    return Recommendation(text, advice, "threshold", 2 + 2 * false_positives.share_of_empty_hit)


def _uncalibrated(analysis: Analysis, report: ReportData) -> Recommendation | None:
    bins = analysis.calibration_here
    if not bins.error >= UNCALIBRATED:
        return None
    excess = mean_excess(bins)
    text = (
        f"Scores are not calibrated: above the recommended threshold they are {figure(abs(excess), 2)} "
        f"{'higher' if excess > 0 else 'lower'}, on average, than the precision of the detections."
    )
    advice = "Do not read scores as probabilities, and do not compare them between models."
    return Recommendation(text, advice, "calibration", 1)


def mean_excess(bins: Calibration) -> float:
    """Return the mean of score minus precision over the detections in `bins`; 0 without detections."""
    excess = np.nan_to_num((bins.scores - bins.precision) * bins.counts)
    return float(excess.sum() / max(bins.counts.sum(), 1))


def _few_objects(analysis: Analysis, report: ReportData) -> Recommendation | None:
    rows = evaluated_classes(analysis)
    rare = sorted((row for row in rows if row.num_objects < FEW_OBJECTS), key=lambda row: row.num_objects)
    if not rare:
        return None
    have = f"{len(rare)} of {len(rows)} classes {'has' if len(rare) == 1 else 'have'}"
    few = listed([f"{named(row.name)} {row.num_objects}" for row in rare], 3)
    text = f"{have} fewer than {FEW_OBJECTS} objects to evaluate with: {few}."
    advice = "Their figures are uncertain; evaluate on more images before you act on them."
    return Recommendation(text, advice, "classes", 1.5)


def _absent_classes(analysis: Analysis, report: ReportData) -> Recommendation | None:
    absent = [row.name for row in analysis.classes if not row.num_objects]
    if not absent or len(absent) == len(analysis.classes):
        return None
    have = f"{len(absent)} of {len(analysis.classes)} classes {'has' if len(absent) == 1 else 'have'}"
    names = listed([named(name) for name in absent], 3)
    text = f"{have} no object in the evaluated images and are left out of the means: {names}."
    return Recommendation(text, "Evaluate on images that have them.", "classes", 1.2)


Rule: TypeAlias = Callable[[Analysis, ReportData], Recommendation | None]


DETECTION_RULES: tuple[Rule, ...] = (
    _nothing_correct,
    _nothing_to_find,
    _costliest_error,
    _failing_size,
    _weak_class,
    _confused_pair,
    _false_positives,
    _few_objects,
    _absent_classes,
    _uncalibrated,
)
