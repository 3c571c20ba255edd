import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ssdlite.errors import ConfigError
from ssdlite.evaluation import coco as module
from ssdlite.evaluation.coco import PycocotoolsClassEval, coco_curves, coco_metrics, load_faster

from .cases import hard_case, make_detections, make_record, make_split

OURS = "ssdlite.evaluation.coco_faster"


@pytest.fixture(autouse=True)
def fresh():
    """What a test says about the installation is forgotten afterwards."""
    load_faster.cache_clear()
    yield
    load_faster.cache_clear()


@pytest.mark.parametrize("seed", range(3))
def test_both_backends_give_the_same_curves(seed, caplog, capsys):
    pytest.importorskip("faster_coco_eval")
    caplog.set_level("DEBUG")
    slow, fast, auto = (coco_curves(*hard_case(seed), backend) for backend in ("pycocotools", "faster", "auto"))
    for ours, theirs in zip(fast, slow, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
        assert len(np.unique(ours)) > 20
    np.testing.assert_array_equal(auto.precision, fast.precision)
    assert not caplog.records and capsys.readouterr().out == ""


def test_curves_by_hand():
    # One object; IoU .82, so seven of ten thresholds. It is large, so the ranges small and medium are undefined.
    split = make_split(make_record(1, [((0, 0, 100, 100), 1)]))
    curves = coco_curves(split, [make_detections(((0, 0, 100, 82), 0.9, 1))])
    assert curves.precision.shape == (10, 101, 2, 4, 3) and curves.recall.shape == (10, 2, 4, 3)
    by_threshold = np.array([1.0] * 7 + [0.0] * 3)
    for area, expected in enumerate((by_threshold, -1, -1, by_threshold)):
        np.testing.assert_allclose(curves.recall[:, 0, area, 0], expected)
        np.testing.assert_allclose(curves.precision[:, 50, 0, area, -1], expected)
    assert (curves.precision[:, :, 1] == -1).all() and (curves.recall[:, 1] == -1).all()


def test_without_the_package_pycocotools_judges_in_silence(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    used = spy(monkeypatch)
    coco_metrics(*hard_case(0))
    assert used == {PycocotoolsClassEval} and not caplog.records
    with pytest.raises(ConfigError, match="pip install faster-coco-eval"):
        coco_metrics(*hard_case(0), "faster")


def test_a_broken_installation_is_told_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", ModuleType("faster_coco_eval"))  # without an evaluator
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    used = spy(monkeypatch)
    for _ in range(2):
        coco_metrics(*hard_case(0))
    assert used == {PycocotoolsClassEval} and len(caplog.records) == 1
    assert "COCOeval_faster" in caplog.text and "pip install --upgrade" in caplog.text


def test_a_package_that_takes_difficult_for_crowd_is_not_used(monkeypatch, caplog):
    class Overwriting(PycocotoolsClassEval):
        def _prepare(self):
            for truth in self.truths:
                truth["ignore"] = truth["iscrowd"]
            super()._prepare()

    monkeypatch.setitem(sys.modules, OURS, SimpleNamespace(FasterClassEval=Overwriting))
    assert load_faster() is None
    assert "where .5 is right" in caplog.text


def spy(monkeypatch) -> set[type]:
    """The evaluators that are used from now on."""
    used: set[type] = set()
    run = module._run
    monkeypatch.setattr(module, "_run", lambda evaluator, *rows: used.add(evaluator) or run(evaluator, *rows))
    return used
