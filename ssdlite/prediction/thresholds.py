"""The score above which a detection counts: one for all classes, and others for some."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ssdlite.errors import ConfigError
from ssdlite.files import quoted
from ssdlite.structures import Detections


@dataclass(frozen=True)
class Thresholds:
    """Scores that detections must exceed; a class that `by_class` does not name has `default`."""

    default: float
    by_class: Mapping[str, float] = field(default_factory=dict)

    @property
    def lowest(self) -> float:
        """What a predictor may leave out without asking for the class."""
        return min((self.default, *self.by_class.values()))

    def for_classes(self, class_names: Sequence[str]) -> np.ndarray:
        """(K,) float32, one for each of `class_names`. Raises ConfigError for a class that is not among them."""
        for name in self.by_class:
            if name not in class_names:
                raise ConfigError(f"there is no class {quoted(name)} in this model; {_hint(name, class_names)}")
        return np.array([self.by_class.get(name, self.default) for name in class_names], np.float32)


def parse_thresholds(texts: Sequence[str], default: float) -> Thresholds:
    """`["0.3", "helmet=0.5"]` as Thresholds; what is not given for all classes is `default`.

    Raises ConfigError for what is no number in 0..1, and for a class, or all classes, given twice.
    """
    given: dict[str | None, float] = {}
    for text in texts:
        name, separator, number = text.rpartition("=")
        key = name if separator else None
        if key in given:
            raise ConfigError(
                f"--score-threshold is given twice for {quoted(key) if separator else 'all classes'}."
            )
        given[key] = _fraction(number, text)
    return Thresholds(given.pop(None, default), {name: value for name, value in given.items() if name is not None})


def keep_above(detections: Detections, limits: np.ndarray) -> Detections:
    """Those that score above the limit of their class; `limits` (K,) for the labels 1..K."""
    kept = detections.scores > limits[detections.labels - 1]
    return Detections(*(field[kept] for field in detections))


def _fraction(number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # NaN is not either
        raise ConfigError(
            f"--score-threshold {quoted(text)}: give a number from 0 to 1, or CLASS=NUMBER as in helmet=0.3."
        )
    return value


def _hint(name: str, class_names: Sequence[str]) -> str:
    if near := difflib.get_close_matches(name, class_names, n=1, cutoff=0.5):
        return f"did you mean {quoted(near[0])}?"
    more = f" and {len(class_names) - 20} more" if len(class_names) > 20 else ""
    return f"known are {', '.join(class_names[:20])}{more}."
