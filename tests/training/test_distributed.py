"""Two processes compute what one does with the whole batch (C9)."""

import torch
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from ssdlite.losses.recipes import MultiboxLoss
from ssdlite.structures import Assignment, HeadOutput
from ssdlite.training import distributed

PRIORS = torch.tensor([[20.0 * i + 10, 10, 18, 18] for i in range(12)])


class Head(nn.Module):
    """Logits and deltas from one linear layer: no statistics that would depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(5, 3 + 4)

    def forward(self, features: torch.Tensor) -> HeadOutput:
        columns = self.layer(features)
        return HeadOutput(columns[..., :3], columns[..., 3:], PRIORS)


def batch() -> tuple[torch.Tensor, Assignment]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(4, 12, 5, generator=generator)
    labels = torch.zeros(4, 12, dtype=torch.int64)
    labels[0, :5] = 1  # very uneven: rank 0 has 5 + 1 positives, rank 1 has 1 and an image without any
    labels[1, 0], labels[2, 3] = 2, 1
    corners = torch.rand(4, 12, 2, generator=generator) * 200
    return features, Assignment(labels, torch.cat([corners, corners + 20], dim=-1))


def gradients(module: nn.Module, features: torch.Tensor, assignment: Assignment) -> list[torch.Tensor]:
    sum(MultiboxLoss()(module(features), assignment).values()).backward()
    return [parameter.grad for parameter in module.parameters()]


def worker(rank: int, path: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    features, assignment = batch()
    mine = slice(2 * rank, 2 * rank + 2)
    share = Assignment(assignment.labels[mine], assignment.boxes[mine])
    found = gradients(DistributedDataParallel(Head()), features[mine], share)
    merged = distributed.merge_dicts({rank: rank * 10})
    voted = distributed.any_process(rank == 1, torch.device("cpu"))
    told = distributed.broadcast("from 0" if rank == 0 else None)
    torch.save((found, merged, voted, told), f"{path}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    expected = gradients(Head(), *batch())
    results = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for found, *_ in results:
        torch.testing.assert_close(found, expected)
    assert [merged for _, merged, *_ in results] == [{0: 0, 1: 10}, None]
    assert all(voted and told == "from 0" for *_, voted, told in results)
