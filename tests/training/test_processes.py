"""Two and four processes take the steps that one takes with the whole batch."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from ssdlite.structures import Batch
from ssdlite.training.step import split_batch
from tests.training.test_step import make_batch, make_step

STEPS = 3
IMAGES = 8


def weights_after(share: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The weights and their average after some steps with part number share[0] of share[1] of each batch.

    Norms are frozen, because each process has statistics of its own images.
    """
    step = make_step(freeze=["norms"])
    for number in range(STEPS):
        step.update(sum(step.gradients(part_of(make_batch(IMAGES), number, share)).values()))
    average = {f"average.{name}": value for name, value in step.ema.module.state_dict().items()}
    return {**step.model.state_dict(), **average}


def part_of(batch: Batch, number: int, share: tuple[int, int]) -> Batch:
    """With other objects in every step, and images without any, so that the shares have unequal positives."""
    labels = batch.labels.clone()
    labels[number::3] = 0
    return split_batch(batch._replace(labels=labels), share[1])[share[0]]


def worker(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(weights_after((rank, world_size)), f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_end_with_the_weights_of_one(tmp_path: Path, world_size):
    multiprocessing.spawn(worker, args=(world_size, str(tmp_path)), nprocs=world_size)
    expected = weights_after((0, 1))
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(world_size)]
    start = make_step().model.state_dict()
    assert any((expected[name] - value).abs().max() > 1e-3 for name, value in start.items())  # it learnt something
    for name, value in expected.items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert all(other[name].equal(found[0][name]) for other in found[1:]), name
