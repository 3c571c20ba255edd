"""Summary of a report: the questions that a reader has, each with an answer of one or two sentences."""

from __future__ import annotations

import math
from typing import NamedTuple

from ssdlite.evaluation.analysis import Analysis, ClassFigures
from ssdlite.evaluation.errors import ErrorType, worst_images
from ssdlite.evaluation.sizes import SizeBucket
from ssdlite.report.data import EvaluatedSplit, ReportData
from ssdlite.report.formatting import count, counted, figure, listed, named, of_hundred, percent

NUM_NAMED = 3  # images or classes that a sentence names


USEFUL = 0.5  # share of the recall that a higher threshold must keep to be suggested


ENOUGH = 10  # objects that a class needs to be compared with others


CLOSE = 0.03  # AP between the weakest and the best class below which the difference is called small


MUCH_WORSE = 0.5  # share of the best size's recall that a size must lack to be called failing


ERROR_NAMES: dict[ErrorType, str] = {
    "missed": "missed",
    "wrong class": "classification",
    "badly placed": "localisation",
    "both": "both",
    "duplicate": "duplicate",
    "background": "background",
}
"""Names of the error types on the page, as in TIDE (Bolya et al. 2020)."""


ERROR_PLURALS: dict[ErrorType, str] = {
    "missed": "missed objects",
    "wrong class": "classification errors",
    "badly placed": "localisation errors",
    "both": "errors of both class and box",
    "duplicate": "duplicates",
    "background": "detections where there is no object",
}


class SummaryEntry(NamedTuple):
    """Question about a detector, its answer, and the section of the page that shows more."""

    question: str
    text: str
    anchor: str  # id of the section


def summarize(report: ReportData) -> list[SummaryEntry]:
    """Return the questions that the data of the report can answer."""
    found = []
    if report.evaluated:
        analysis = report.evaluated.analysis
        found += [
            SummaryEntry("How good is it?", _how_good(analysis), "figures"),
            SummaryEntry("Which class is weakest?", _which_class(analysis), "classes"),
            SummaryEntry("At which object size does it fail?", _which_size(analysis), "sizes"),
            SummaryEntry("At which threshold should it run?", _which_threshold(analysis), "threshold"),
            SummaryEntry("What does it get wrong?", _error_types(analysis), "errors"),
            SummaryEntry("Which images are the worst?", _which_images(report.evaluated), "images"),
        ]
    else:
        found.append(
            SummaryEntry("How good is it?", report.why_not_evaluated or "It has not been evaluated.", "figures")
        )
    if report.has_priors is not None:
        found.append(SummaryEntry("Do the priors fit the data?", _do_priors_fit(report), "priors"))
    if report.history.train or report.history.val:
        found.append(SummaryEntry("How did training go?", _how_training_went(report), "training"))
    return found


def evaluated_classes(analysis: Analysis) -> list[ClassFigures]:
    """Return the classes that have objects, the weakest first."""
    return sorted((row for row in analysis.classes if row.num_objects), key=lambda row: (row.ap, row.ap50))


def comparable_classes(analysis: Analysis) -> list[ClassFigures]:
    """Return the classes with at least ENOUGH objects, the weakest first; all, if fewer than two have so many."""
    rows = evaluated_classes(analysis)
    enough = [row for row in rows if row.num_objects >= ENOUGH]
    return enough if len(enough) > 1 else rows


def failing_sizes(analysis: Analysis) -> tuple[list[SizeBucket], SizeBucket] | None:
    """Return the sizes with less than half of the best size's recall, and the best size; None without objects."""
    buckets = [bucket for bucket in analysis.relative_sizes.buckets if bucket.total]
    if not buckets:
        return None
    best = max(buckets, key=lambda bucket: bucket.mean_recall50)
    return [bucket for bucket in buckets if bucket.mean_recall50 < (1 - MUCH_WORSE) * best.mean_recall50], best


def _how_good(analysis: Analysis) -> str:
    objects = sum(row.num_objects for row in analysis.classes)
    on = f"{counted(analysis.num_images, 'image')} with {counted(objects, 'object')}"
    if not objects:
        return f"Unknown: the {on} have nothing to detect."
    here = analysis.here
    text = f"AP {figure(analysis.coco['AP'])}, AP50 {figure(analysis.coco['AP50'])} on {on}. "
    if not len(analysis.pooled.scores):
        return text + "It detects nothing at any threshold."
    if not here.right + here.wrong:
        return text + f"It detects nothing at threshold {figure(analysis.threshold, 2)}."
    correct = f"{of_hundred(here.precision)} of its detections are correct"
    return text + f"At the recommended threshold it finds {of_hundred(here.recall)} objects, and {correct}."


def _which_class(analysis: Analysis) -> str:
    rows = comparable_classes(analysis)
    if not rows:
        return "Unknown: no class has objects."
    if len(rows) == 1:
        return f"Only {named(rows[0].name)} has objects: AP {figure(rows[0].ap)}."
    best = rows[-1]
    if best.ap - rows[0].ap < CLOSE:
        against = f"against {figure(best.ap)} of {named(best.name)}"
        return f"{named(rows[0].name)}, by a small difference: AP {figure(rows[0].ap)}, {against}."
    weakest = [f"{named(row.name)} (AP {figure(row.ap)})" for row in rows[: min(NUM_NAMED, len(rows) - 1)]]
    if len(rows) <= NUM_NAMED:
        weakest = weakest[:1]
    compared = (
        f" Only the {len(rows)} classes with {ENOUGH} objects or more are compared."
        if len(rows) < len(evaluated_classes(analysis))
        else ""
    )
    return f"{listed(weakest)}; the best is {named(best.name)} ({figure(best.ap)}).{compared}"


def _which_size(analysis: Analysis) -> str:
    failing = failing_sizes(analysis)
    if failing is None:
        return "Unknown: the images have no objects."
    buckets, best = failing
    if not best.mean_recall50 > 0:
        return "At every size: it finds no object at any threshold."
    top = f"of those {size_words(best)} it can find {percent(best.mean_recall50)}"
    if buckets:
        objects = sum(bucket.total for bucket in buckets)
        share = percent(objects / sum(bucket.total for bucket in analysis.relative_sizes.buckets))
        recalls = listed([percent(bucket.mean_recall50) for bucket in buckets])
        sizes = listed([size_words(bucket) for bucket in buckets])
        return f"At objects {sizes} of the image's side, {share} of all: it can find {recalls} of them; {top}."
    others = [bucket for bucket in analysis.relative_sizes.buckets if bucket.total and bucket is not best]
    if not others:
        return f"All objects are {size_words(best)} of the image's side; it can find {percent(best.mean_recall50)}."
    worst = min(others, key=lambda bucket: bucket.mean_recall50)
    return (
        f"At none: of the objects {size_words(worst)} of the image's side it can find "
        f"{percent(worst.mean_recall50)}, {top}."
    )


def size_words(bucket: SizeBucket) -> str:
    """Return the name of a size as it follows 'objects': 'under 4 %', 'of 4–8 %'."""
    name = bucket.name.replace("<", "under").replace(">", "over")
    return name if name != bucket.name else f"of {name}"


def _which_threshold(analysis: Analysis) -> str:
    here = analysis.here
    if not here.right:
        return "Unknown: none of its detections is correct."
    text = f"{figure(analysis.threshold, 2)}: precision {percent(here.precision)}, recall {percent(here.recall)}."
    for _, point in sorted(analysis.alternatives.items(), reverse=True):
        if point and point.precision > here.precision and point.recall >= USEFUL * here.recall:
            return (
                f"{text} When false positives are costly, {figure(point.threshold, 2)}: precision "
                f"{percent(point.precision)}, recall {percent(point.recall)}."
            )
    return text


def _error_types(analysis: Analysis) -> str:
    total = sum(analysis.errors.values())
    if not total:
        return "Nothing at the recommended threshold."
    kind = max(analysis.errors, key=lambda kind: analysis.errors[kind])
    text = (
        f"{count(analysis.errors[kind])} of its {counted(total, 'error')} at the recommended threshold are "
        f"{ERROR_PLURALS[kind]}."
    )
    costs = {kind: cost for kind, cost in analysis.delta_ap.items() if math.isfinite(cost)}
    costliest = max(costs, key=lambda kind: costs[kind], default=None)
    if costliest and costs[costliest] > 0:
        text += f" {ERROR_PLURALS[costliest].capitalize()} cost the most: {figure(costs[costliest], 2)} of AP50."
    return text


def _which_images(evaluated: EvaluatedSplit) -> str:
    worst = worst_images(evaluated.analysis.images, NUM_NAMED)
    if not worst:
        return "None: no image has an error at the recommended threshold."
    names = [evaluated.split.records[image.index].image_path.name for image in worst]
    erroneous = sum(bool(image.errors) for image in evaluated.analysis.images)
    return f"{listed(names)}. {counted(erroneous, 'image has', 'images have')} errors; the worst are shown below."


def _do_priors_fit(report: ReportData) -> str:
    if not report.has_priors:
        return "The head of this network has no priors."
    fit = report.fit
    if fit is None or not fit.num_objects:
        return "The fit was not measured."
    objects = counted(fit.num_objects, "training object")
    text = (
        f"{percent(fit.reached)} of {objects} have a prior with IoU .5 or more; {percent(fit.forced)} are assigned "
    )
    return text + "to a worse one" + (f", {percent(fit.unmatched)} to none." if fit.unmatched else ".")


def _how_training_went(report: ReportData) -> str:
    history = report.history
    text = f"The log ends at step {count(history.last_step)}"
    epochs, loss, ap = history.train.get("epoch"), history.train.get("loss"), history.val.get("AP")
    if epochs is not None and report.epochs:
        text += f", in epoch {int(epochs.values[-1]) + 1} of {report.epochs}"
    if loss is not None and len(loss) > 1:
        text += f". The loss went from {figure(loss.values[0], 2)} to {figure(loss.values[-1], 2)}"
    if ap is not None:
        last = "the only validation" if len(ap) == 1 else f"the last of {count(len(ap))} validations"
        text += f". AP was {figure(ap.values[-1])} at {last}"
    return text + "."
