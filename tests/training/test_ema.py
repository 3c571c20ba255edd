"""The average of the weights, by hand and against PyTorch's."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ssdlite.training.optim import WeightAverage


def test_average_by_hand_with_warmup():
    model = nn.Linear(1, 1, bias=False)
    model.register_buffer("count", torch.tensor(0))
    average = WeightAverage(model, decay=0.5)
    values, expected = [1.0, 2.0, 4.0], None
    for update, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(value)
        model.count.fill_(update)
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert average.module.count.item() == 2
    assert average.num_updates == 3


def test_without_warmup_it_is_pytorchs_average():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    ours = WeightAverage(model, decay=0.05)  # below the warm-up's first decay of 0.1
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.05), use_buffers=True)
    for _ in range(4):
        model(torch.randn(2, 3, 5, 5)).sum()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update()
        theirs.update_parameters(model)
    assert model[1].num_batches_tracked == 4
    expected = theirs.module.state_dict()
    floating = {name: mean for name, mean in ours.module.state_dict().items() if mean.is_floating_point()}
    assert len(floating) == 6
    for name, mean in floating.items():
        torch.testing.assert_close(mean, expected[name], msg=name)


def test_the_average_does_not_learn_and_does_not_touch_the_model():
    model = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = WeightAverage(model, decay=0.9)
    average.update()
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
