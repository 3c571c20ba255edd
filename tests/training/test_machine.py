"""Eight processes of one machine share its cores, its batches and the main process's buffers, and wait for it."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import distributed_c10d
from torch.multiprocessing import start_processes

from ssdlite import machine
from ssdlite.build.training import build_loader
from ssdlite.config.schema import load_config
from ssdlite.structures import DataSplit, Record
from ssdlite.training import distributed
from ssdlite.training.step import split_batch
from tests.training.test_step import make_batch, make_step

PROCESSES, CORES, IMAGES = 8, 64, 40


def split() -> DataSplit:
    none = np.zeros((0, 4), np.float32)
    empty = np.zeros(0, np.int64)
    flags, areas = empty.astype(bool), none[:, 0]
    records = [Record(Path("none"), number, (9, 9), none, empty, flags, flags, areas) for number in range(IMAGES)]
    return DataSplit(records, ("thing",), (1,))


def loader_facts(training: bool, device: str) -> dict[str, Any]:
    config = load_config(None, ["train.batch_size=16", "model.input_size=96"])
    made = build_loader(config, split(), training=training, alignment="half_pixel", device=torch.device(device))
    facts = {"workers": made.num_workers, "batch_size": made.batch_size, "pinned": made.pin_memory}
    return facts | {"indices": [index for index, _ in made.sampler]}


def running_means(step: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in step.model.named_buffers() if name.endswith("running_mean")}


def timeout_of(group: Any) -> timedelta:
    return group._get_backend(torch.device("cpu")).options._timeout


def worker(rank: int, folder: str, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(PROCESSES), "LOCAL_WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    machine.usable_cores = lambda: CORES
    with distributed.process_group("cpu"):
        facts: dict[str, Any] = {
            "processes": distributed.local_processes(),
            "loaders": [loader_facts(*case) for case in ((True, "cuda"), (False, "cuda"), (True, "cpu"))],
            "timeouts": [timeout_of(distributed_c10d._get_default_group()), timeout_of(distributed._waiting)],
        }
        step = make_step()
        part = split_batch(make_batch(2 * PROCESSES), PROCESSES)[rank]
        broadcasts = []
        step.network._distributed_broadcast_coalesced = lambda *_: broadcasts.append(1)
        for _ in range(2):
            terms = step.gradients(part)
            gradients = [parameter.grad for parameter in step.model.parameters()]
            facts["places"] = len({gradient.untyped_storage().data_ptr() for gradient in gradients})
            step.update(sum(terms.values()))
        facts |= {"broadcasts": len(broadcasts), "gradients": len(gradients)}
        facts["weights"] = {name: value.detach() for name, value in step.model.named_parameters()}
        facts["own"] = running_means(step)
        distributed.synchronize_buffers(step.model)
        facts["shared"] = running_means(step)
        # The main process takes longer than an exchange may.
        distributed_c10d._set_pg_timeout(timedelta(seconds=1), distributed_c10d._get_default_group())
        facts["told"] = distributed.in_main_process(lambda: time.sleep(3) or "told")
        time.sleep(2 if rank == 1 else 0)
        facts["merged"] = distributed.merge_dicts({rank: -rank})
        distributed.broadcast(None)  # nobody leaves before
        torch.save(facts, f"{folder}/{rank}.pt")
    assert distributed._waiting is None


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked from a process that has imported everything once, where the system has such.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(["ssdlite.build"])
    start_processes(worker, (str(folder), port), nprocs=PROCESSES, start_method=method)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


def test_they_share_the_cores_and_the_batches(facts):
    assert all(one["processes"] == PROCESSES for one in facts)
    on_gpu, validation, on_cpu = zip(*(one["loaders"] for one in facts), strict=True)
    for found in (*on_gpu, *on_cpu, *validation):
        assert found["workers"] == 7  # 64 // 8 - 1
    assert all(found["batch_size"] == 2 for found in (*on_gpu, *on_cpu))
    assert all(found["pinned"] for found in (*on_gpu, *validation)) and not any(found["pinned"] for found in on_cpu)
    for found in (on_gpu, validation):
        assert sorted(index for one in found for index in one["indices"]) == list(range(IMAGES))


def test_norms_are_those_of_each_until_they_are_validated(facts):
    for name, first in facts[0]["own"].items():
        assert all(one["shared"][name].equal(first) for one in facts), name
    differing = [name for name, first in facts[0]["own"].items() if not facts[1]["own"][name].equal(first)]
    assert len(differing) > 10
    assert all(one["broadcasts"] == 0 for one in facts)  # in the steps


def test_gradients_lie_in_what_is_exchanged(facts):
    """Views of a few buckets, in place of a tensor each that is copied there and back."""
    assert all(one["places"] < 5 and one["gradients"] > 100 for one in facts)


def test_weights_are_the_same_in_all(facts):
    start = dict(make_step().model.named_parameters())
    for name, first in facts[0]["weights"].items():
        assert all(one["weights"][name].equal(first) for one in facts[1:]), name
    assert any((first - start[name]).abs().max() > 1e-4 for name, first in facts[0]["weights"].items())


def test_they_wait_for_the_first_as_long_as_it_works(facts):
    for one in facts:
        assert one["timeouts"] == [distributed.EXCHANGE_TIMEOUT, distributed.WAITING_TIMEOUT]
        assert one["told"] == "told"
    assert facts[0]["merged"] == {rank: -rank for rank in range(PROCESSES)}
    assert all(one["merged"] is None for one in facts[1:])
    assert timedelta(minutes=10) < distributed.EXCHANGE_TIMEOUT < distributed.WAITING_TIMEOUT
