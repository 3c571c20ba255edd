"""The likely culprit of a loss that is no number."""

import json

import pytest
import torch

from ssdlite.training.nonfinite import record_failure
from tests.training.test_step import make_batch, make_step

NAMES = ("cat", "dog", "owl")


def with_bad_box(step, batch):
    batch.boxes[2, 1] = torch.tensor([30.0, 40, 30, 20])
    return batch


def with_bad_weight(step, batch):
    next(step.model.parameters()).data.view(-1)[0] = torch.nan
    return batch


def with_bad_answer(step, batch):
    step.model.head.classification[0].register_forward_hook(lambda module, inputs, output: output / 0)
    return batch


def with_nothing(step, batch):
    return batch


@pytest.mark.parametrize(
    ("make_nonfinite", "cause"),
    [
        (with_bad_box, "image 2 has the box [30.0, 40.0, 30.0, 20.0]"),
        (with_bad_weight, "backbone.features.0.0.weight of the network is not finite itself"),
        (with_bad_answer, "the network's answer is not finite although its weights are"),
        (with_nothing, "seen once more, every image gives a finite loss"),
    ],
)
def test_culprit(tmp_path, make_nonfinite, cause):
    step = make_step()
    batch = make_nonfinite(step, make_batch())
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    found = record_failure(tmp_path / "box", step, batch, NAMES, {"step": 3, "loss": float("nan")})
    assert found.startswith(cause)
    report = json.loads((tmp_path / "box" / "report.json").read_text(encoding="utf-8"))
    assert (report["culprit"], report["step"], report["loss"]) == (found, 3, "nan")
    assert [image["image_id"] for image in report["images"]] == batch.image_ids
    assert [image["objects"] for image in report["images"]] == [2, 2, 2, 2]
    saved = torch.load(tmp_path / "box" / "batch.pt", weights_only=True)
    assert saved["images"].equal(batch.images) and saved["assigned_labels"].shape[0] == 4
    assert all(
        torch.equal(value.nan_to_num(), before[name].nan_to_num())
        for name, value in step.model.state_dict().items()
    )
    assert step.model.training
