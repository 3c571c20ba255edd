import numpy as np
import pytest

from ssdlite.errors import ConfigError
from ssdlite.inference.images import Thresholds, keep_above, parse_thresholds
from ssdlite.structures import Detections

NAMES = ("head", "helmet", "a=b")


def test_one_for_all_and_others_for_some():
    assert parse_thresholds([], 0.4) == Thresholds(0.4)
    found = parse_thresholds(["helmet=0.25", "0.5", "a=b=1"], 0.4)
    assert found == Thresholds(0.5, {"helmet": 0.25, "a=b": 1.0}) and found.lowest == 0.25
    np.testing.assert_allclose(found.for_classes(NAMES), [0.5, 0.25, 1])


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["much"], "'much': give a number from 0 to 1"),
        (["1.5"], "'1.5': give"),
        (["nan"], "'nan': give"),
        (["helmet="], "'helmet=': give"),
        (["0.3", "0.4"], "twice for all classes"),
        (["head=.3", "head=.4"], "twice for 'head'"),
    ],
)
def test_mistakes_are_refused(texts, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_thresholds(texts, 0.4)


def test_an_unknown_class_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="no class 'Helmet' in this model; did you mean 'helmet'"):
        Thresholds(0.4, {"Helmet": 0.3}).for_classes(NAMES)
    with pytest.raises(ConfigError, match="known are head, helmet, a=b"):
        Thresholds(0.4, {"xyz": 0.3}).for_classes(NAMES)


def test_a_detection_must_exceed_the_limit_of_its_class():
    scores, labels = np.array([0.9, 0.5, 0.4, 0.25], np.float32), np.array([1, 2, 1, 2])
    found = Detections(np.arange(16, dtype=np.float32).reshape(4, 4), scores, labels)
    kept = keep_above(found, np.array([0.4, 0.25], np.float32))
    np.testing.assert_array_equal(kept.scores, scores[:2])
    np.testing.assert_array_equal(kept.boxes, found.boxes[:2])
    assert len(keep_above(Detections.empty(), np.array([0.4], np.float32)).scores) == 0
