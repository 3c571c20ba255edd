"""Means between two lines of the log, before and after a resume, wherever the losses were computed."""

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from ssdlite.training.loggers import Meter


def count(meter: Meter, *steps: tuple[float, float]) -> None:
    for box, classification in steps:
        meter.count({"box": torch.tensor(box), "classification": torch.tensor(classification)}, images=4)


def test_means_are_of_all_steps_that_are_finite():
    meter = Meter()
    count(meter, (1, 2), (3, 6), (float("nan"), 100))
    means = meter.take()
    assert (means["box"], means["classification"], means["loss"]) == (2, 4, 6)
    assert meter.take() == {} == Meter().take()


def test_what_was_counted_before_a_resume_counts():
    whole, first, second = Meter(), Meter(), Meter()
    count(whole, (0.1, 0.7), (0.2, 0.4), (0.3, 0.1))
    count(first, (0.1, 0.7), (0.2, 0.4))
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict() and len(first.state_dict()) == 2
    count(second, (0.3, 0.1))
    expected, found = whole.take(), second.take()
    assert all(found[name] == expected[name] for name in ("loss", "box", "classification"))


def test_nothing_counted_is_nothing_to_save():
    meter = Meter()
    assert meter.state_dict() == []
    meter.load_state_dict([])
    assert meter.take() == {}


def test_restored_terms_are_joined_with_those_of_a_gpu():
    """On tensors without values: they pass all that needs none, and refuse two devices in one operator."""
    meter = Meter()
    meter.load_state_dict([{"box": 1.0, "classification": 2.0}])
    with FakeTensorMode():
        on_gpu = {name: torch.zeros((), device="cuda") for name in ("box", "classification")}
        meter.count(on_gpu, images=4)
        with pytest.raises(DynamicOutputShapeException):  # choosing the finite ones needs values, and comes after
            meter.take()
