"""Nothing in assignment and losses looks at a value on the device: on a GPU each look would stall the step.

Run on tensors without values that say they lie on a GPU; whatever needs a value raises there.
"""

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssdlite.losses.assigners import assign_atss, assign_task_aligned
from ssdlite.losses.corner import CornerCriterion
from ssdlite.losses.matching import assign_iou
from ssdlite.losses.recipes import BoxLoss, Criterion, FocalLoss, MultiboxLoss, QualityLoss, SampledLoss
from ssdlite.structures import CornerOutput, HeadOutput

ASSIGNERS = {
    "iou": assign_iou,
    "iou with a band and ties": partial(assign_iou, iou_threshold=0.7, background_below=0.3, all_ties=True),
    "atss": assign_atss,
    "task-aligned": assign_task_aligned,
}
RECIPES = {
    "multibox": (partial(MultiboxLoss, label_smoothing=0.1), "softmax"),
    "multibox with sigmoid": (MultiboxLoss, "sigmoid"),
    "focal": (partial(FocalLoss, box=BoxLoss("diou")), "sigmoid"),
    "sampled": (SampledLoss, "softmax"),
    "quality": (partial(QualityLoss, box=BoxLoss("ciou")), "sigmoid"),
    "varifocal": (partial(QualityLoss, classification="varifocal"), "sigmoid"),
}


def run(criterion: Criterion, activation: str, device: str) -> None:
    """Two images with three objects and 30 priors of two levels."""
    output = HeadOutput(
        torch.zeros(2, 30, 4, device=device),
        torch.zeros(2, 30, 4, device=device),
        torch.ones(30, 4, device=device),
        activation,
        (20, 10),
    )
    targets = (torch.zeros(2, 3, 4, device=device), torch.ones(2, 3, dtype=torch.int64, device=device))
    criterion.to(device)(output, *targets, torch.zeros(2, 3, dtype=torch.bool, device=device))


@pytest.mark.parametrize("assign", ASSIGNERS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_gpu_is_never_waited_for(recipe, assign, monkeypatch):
    # A generator of a GPU that is not there cannot be made.
    monkeypatch.setattr(SampledLoss, "_next_generator", lambda self, device: None)
    make, activation = RECIPES[recipe]
    with FakeTensorMode():
        run(Criterion(ASSIGNERS[assign], make(weights=[1, 2, 3])), activation, "cuda")


class RefuseBooleanReduction(TorchDispatchMode):
    """CUDA has no scatter_reduce of bool; tensors without values would take it."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if "scatter_reduce" in str(operator):
            assert args[0].dtype is not torch.bool, f"{operator} of bool"
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("assign", ASSIGNERS)
def test_no_reduction_that_cuda_lacks(assign):
    with FakeTensorMode(), RefuseBooleanReduction():
        run(Criterion(ASSIGNERS[assign], MultiboxLoss()), "softmax", "cuda")


def test_nor_by_the_losses_of_corners():
    with FakeTensorMode():
        maps = [torch.zeros(2, 2, *shape, device="cuda") for shape in ((3, 8, 10), (8, 10), (2, 8, 10))]
        boxes, labels = torch.zeros(2, 3, 4, device="cuda"), torch.ones(2, 3, dtype=torch.int64, device="cuda")
        CornerCriterion()(CornerOutput(*maps, (64, 80)), boxes, labels, labels > 1)


def test_a_look_at_a_value_would_be_noticed():
    """On a CPU the greedy matching stops as soon as nothing is left to match, which it has to look at."""
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        run(Criterion(assign_iou, MultiboxLoss()), "softmax", "cpu")
