"""Launches are counted as PyTorch makes them, and a step has few enough."""

import pytest
import torch
from torch import nn

from ssdlite.benchmark.launches import (
    LaunchCounter,
    backward_in_python,
    count_step,
    empty_batch,
    move_without_values,
    pretended_gpu,
)
from ssdlite.build.model import empty_detector
from ssdlite.build.training import build_criterion, build_dtype, build_step
from ssdlite.config.schema import load_config
from ssdlite.data.device import finish_images
from ssdlite.structures import DataSplit

CUDA = torch.device("cuda")


def launches(work) -> dict[str, int]:
    with pretended_gpu(), LaunchCounter() as counter:
        work()
    return {operator: count for (_, operator), count in counter.launches.items()}


def test_views_and_allocations_launch_nothing():
    def work():
        rows = torch.empty(4, 6, device=CUDA).view(2, 12).transpose(0, 1)[1:].unsqueeze(0).detach()
        torch.empty_like(rows) + 1

    assert launches(work) == {"add": 1}


def test_a_convolution_launches_one_for_its_bias_and_one_for_each_gradient():
    def work():
        images = torch.empty(1, 3, 8, 8, device=CUDA)
        for bias in (True, False):
            conv = nn.Conv2d(3, 4, 3, bias=bias, device=CUDA)
            backward_in_python(conv(images).sum(), LaunchCounter())

    counts = launches(work)
    assert counts["convolution"] == 3 and counts["convolution_backward"] == 2 + 1


def test_lists_are_launched_by_tensors_and_by_chunks():
    """MultiTensorApply: two lists take 64 tensors at a time, or 320 chunks of 65,536 elements."""

    def total(work):
        with LaunchCounter() as counter:
            work()
        return counter.total

    def copy(count, elements, dtype=torch.float32):
        ours = [torch.empty(elements, device="meta") for _ in range(count)]
        theirs = [torch.empty(elements, device="meta", dtype=dtype) for _ in range(count)]
        return total(lambda: torch._foreach_copy_(ours, theirs))

    assert [copy(count, 10) for count in (1, 64, 65, 128, 129)] == [1, 1, 2, 2, 3]
    assert [copy(1, chunks * 65_536) for chunks in (320, 321, 640)] == [1, 2, 2]
    assert copy(10, 10, torch.bfloat16) == 1
    mixed = [torch.empty(2, device="meta"), torch.empty(2, device="meta", dtype=torch.int64)] * 5
    assert total(lambda: torch._foreach_copy_(mixed, mixed)) == 10


def test_the_backward_in_python_is_that_of_the_engine():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 4, 1)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    images = torch.randn(2, 3, 6, 6)
    losses = []
    for net in nets:
        features = net(images)
        parts = (features * net[0].bias[:, None, None]).split(1, dim=1)  # broadcast, and met from two sides
        losses.append(sum((part.sigmoid() ** 2).mean() for part in parts[:3]))
    losses[0].backward()
    backward_in_python(losses[1], LaunchCounter())
    for expected, found in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize(("recipe", "most"), [("ssd", 80), ("light", 40)])
def test_augmentation_on_the_device_has_few_launches(recipe, most):
    columns = {"ssd": 19, "light": 12}[recipe]
    with pretended_gpu():
        pixels, rows = torch.empty(5000, 3, dtype=torch.uint8, device=CUDA), torch.empty(4, columns, device=CUDA)
        drafts = empty_batch(4, (30, 50), 2, CUDA)._replace(images=pixels, pending=rows)
        with LaunchCounter() as counter:
            assert finish_images(drafts, (30, 50)).images.shape == (4, 3, 30, 50)
    assert most / 2 < counter.total <= most


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("num_objects", [16, 60])
def test_a_step_has_at_most_1200_launches(precision, num_objects):
    names = tuple(f"class {number}" for number in range(80))
    config = load_config(None, ["model.input_size=320", "model.weights=none", f"train.precision={precision}"])
    network = empty_detector(config, names).to(memory_format=torch.channels_last)
    criterion = build_criterion(config.loss, DataSplit([], names, ()))
    with pretended_gpu():
        move_without_values(network.train(), CUDA)
        move_without_values(criterion, CUDA)
        dtype = build_dtype(precision, CUDA)
        step = build_step(config, network, criterion, total_steps=10, device=CUDA, dtype=dtype)
        counter = count_step(step, empty_batch(32, (320, 320), num_objects, CUDA))
    # Nothing is missed: the norms have a gradient each, and a part without launches was not looked into.
    norms = sum(count for (_, operator), count in counter.launches.items() if "norm_backward" in operator)
    assert norms == sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert counter.by_part().keys() == {
        "forward", "assignment", "loss", "backward", "optimizer", "statistics", "average"
    }  # fmt: skip
    assert 700 < counter.total <= 1200
