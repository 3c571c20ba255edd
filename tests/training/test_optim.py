"""Schedule, parameter groups, averages: against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from ssdlite.training.optim import build_schedule, build_sgd, choose_precision, groups_of_parts


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def rates(total: int, warmup: int) -> list[float]:
    optimizer = build_sgd(small(), lr=1.0, momentum=0.9, weight_decay=0)
    schedule = build_schedule(optimizer, total_steps=total, warmup_steps=warmup)
    values = []
    for _ in range(total):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return values


def test_linear_warmup_then_cosine_to_zero():
    values = rates(100, 10)
    assert values[0] == pytest.approx(1e-3)
    assert values[5] == pytest.approx(1e-3 + 0.5 * (1 - 1e-3))
    assert values[10] == pytest.approx(1.0)
    assert values[55] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert values[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_warmup_is_at_most_a_tenth_of_a_short_run():
    assert rates(20, 200)[2] == pytest.approx(1.0)


def test_a_run_of_one_step_has_its_rate():
    assert rates(1, 200) == [1.0]


def test_norms_and_biases_are_not_decayed():
    model = small()
    optimizer = build_sgd(model, lr=1.0, momentum=0.9, weight_decay=0.1)
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert decayed["params"] == [model[0].weight]
    assert len(plain["params"]) == 3


def parts() -> nn.ModuleDict:
    return nn.ModuleDict({name: small() for name in ("backbone", "extras", "head")})


def test_learning_rates_by_part():
    model = parts()
    optimizer = build_sgd(model, lr=0.5, momentum=0.9, weight_decay=0.1, lr_factors={"backbone": 0.1, "head": 2.0})
    group_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, rate in (("backbone", 0.05), ("extras", 0.5), ("head", 1.0)):
        for parameter in model[name].parameters():
            group = group_of.pop(id(parameter))
            assert group["lr"] == pytest.approx(rate)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0)
    assert not group_of


def test_the_schedule_keeps_the_ratios_of_the_parts():
    optimizer = build_sgd(parts(), lr=1.0, momentum=0.9, weight_decay=0, lr_factors={"backbone": 0.1, "head": 0.5})
    schedule = build_schedule(optimizer, total_steps=50, warmup_steps=5)
    for step in range(50):
        backbone, extras, head = (group["lr"] for group in optimizer.param_groups[::2])
        assert backbone == pytest.approx(0.1 * extras)
        assert extras == pytest.approx(rates(50, 5)[step]) and head == pytest.approx(0.5 * extras)
        optimizer.step()
        schedule.step()


def test_what_is_frozen_is_left_out_and_a_factor_of_zero_moves_nothing():
    model = parts()
    model["backbone"].requires_grad_(False)
    optimizer = build_sgd(model, lr=1.0, momentum=0.9, weight_decay=0.1, lr_factors={"extras": 0.0})
    listed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert listed == {id(parameter) for name in ("extras", "head") for parameter in model[name].parameters()}
    before = {name: value.clone() for name, value in model.named_parameters()}
    for parameter in [*model["extras"].parameters(), *model["head"].parameters()]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not value.equal(before[name])}
    assert moved == {name for name in before if name.startswith("head.")}


def test_precision_of_this_machine_is_one_it_has():
    precision = choose_precision(torch.device("cpu"))
    assert precision == (
        "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"
    )


def test_parts_have_the_rates_of_their_groups():
    model = nn.ModuleDict({"backbone": small(), "frozen": small(), "extras": nn.ReLU(), "head": small()})
    model["frozen"].requires_grad_(False)
    optimizer = build_sgd(model, lr=1.0, momentum=0.9, weight_decay=0, lr_factors={"backbone": 0.1})
    groups = groups_of_parts(model, optimizer)
    rates = {part: optimizer.param_groups[number]["lr"] for part, number in groups.items()}
    assert rates == {"backbone": pytest.approx(0.1), "head": 1.0}
