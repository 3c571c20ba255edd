from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdlite import machine
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.loader import (
    DetectionDataset,
    Draft,
    SeededSampler,
    build_train_loader,
    build_val_loader,
    collate,
    collate_drafts,
    default_workers,
    mix_seed,
)
from ssdlite.errors import DataError
from ssdlite.structures import Batch, DataSplit, Targets

SIZE = (32, 48)


def draws(split: DataSplit, workers: int, epochs: int = 2, start: int = 0) -> list[Batch]:
    dataset = DetectionDataset(split, SIZE, "ssd")
    loader = build_train_loader(dataset, batch_size=2, workers=workers, seed=3)
    batches = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch, start=start)
        batches += list(loader)
    return batches


def same(first: Batch, second: Batch) -> bool:
    return first.indices == second.indices and all(
        torch.equal(a, b) for a, b in zip(first[:4], second[:4], strict=True)
    )


def test_draws_do_not_depend_on_workers_but_on_the_epoch(split: DataSplit) -> None:
    alone, one, two = (draws(split, workers) for workers in (0, 1, 2))
    assert len(alone) == 8
    assert all(same(a, b) and same(a, c) for a, b, c in zip(alone, one, two, strict=True))
    first = {index: image for batch in alone[:4] for index, image in zip(batch.indices, batch.images, strict=True)}
    second = {index: image for batch in alone[4:] for index, image in zip(batch.indices, batch.images, strict=True)}
    shared = first.keys() & second.keys()
    assert len(shared) >= 7
    assert not any(torch.equal(first[index], second[index]) for index in shared)


def test_resuming_inside_an_epoch_gives_the_rest_of_it(split: DataSplit) -> None:
    whole, rest = draws(split, 0, epochs=1), draws(split, 0, epochs=1, start=4)
    assert len(rest) == 2
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_sampler_shuffles_by_seed_and_epoch() -> None:
    sampler = SeededSampler(100, seed=1)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    other = list(sampler)
    assert first == again != other
    assert sorted(index for index, _ in first) == list(range(100))
    assert first != list(SeededSampler(100, seed=2))
    assert len({seed for _, seed in first + other}) == 200


@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_an_epoch(shuffle: bool) -> None:
    """11 images for 3: training gives 3 each, validation 4, 4 and 3; none twice, with the draws of one process."""
    samplers = [SeededSampler(11, seed=1, shuffle=shuffle, rank=rank, world_size=3) for rank in range(3)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(share) for share in shares] == [len(s) for s in samplers] == ([3] * 3 if shuffle else [4, 4, 3])
    keys = [key for share in shares for key in share]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(SeededSampler(11, seed=1, shuffle=shuffle))


def test_mixed_seeds_differ() -> None:
    seeds = {mix_seed(seed, epoch, index) for seed in range(10) for epoch in range(10) for index in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert mix_seed(1, 2) != mix_seed(2, 1)


def test_collate_pads_and_keeps_channels_last(split: DataSplit) -> None:
    dataset = DetectionDataset(split, SIZE)
    batch = collate([dataset[index] for index in range(3)])
    assert batch.images.shape == (3, 3, *SIZE)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.tolist() == [[0, 0], [1, 0], [1, 2]]
    assert batch.ignore.tolist() == [[False, False], [False, False], [False, True]]
    assert batch.boxes.shape == (3, 2, 4)
    # 10 of 60 columns is 8 of 48, 5 of 40 rows is 4 of 32
    assert batch.boxes[1].tolist() == [pytest.approx([8, 4, 32, 24]), [0, 0, 0, 0]]
    assert batch.image_ids == [100, 101, 102]
    assert batch.original_sizes == [(40, 60)] * 3
    assert batch.indices == [0, 1, 2]


def test_a_batch_without_objects_has_one_padded_row(split: DataSplit) -> None:
    batch = collate([DetectionDataset(split, SIZE)[0]])
    assert batch.boxes.shape == (1, 1, 4)
    assert batch.labels.tolist() == [[0]]


def test_parts_of_drafts_lie_one_after_the_other() -> None:
    """A view of 2x2 pixels out of 3x3, and a pixel: row by row, and the views are not written to."""
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    image.flags.writeable = False
    some = Targets(torch.ones(1, 4), torch.tensor([2]), torch.tensor([True]))
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    drafts = [
        Draft(image[1:, 1:], np.array([2, 2], np.float32), none, "a", (3, 3), 4),
        Draft(image[:1, :1], np.array([1, 1], np.float32), some, "b", (6, 6), 7),
    ]
    batch = collate_drafts(drafts)
    assert batch.images[:, 0].tolist() == [12, 15, 21, 24, 0]
    assert batch.images[0].tolist() == [12, 13, 14]
    assert batch.pending.tolist() == [[2, 2], [1, 1]]
    assert batch.labels.tolist() == [[0], [2]]
    assert batch.ignore.tolist() == [[False], [True]]
    assert (batch.image_ids, batch.original_sizes, batch.indices) == (["a", "b"], [(3, 3), (6, 6)], [4, 7])


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_gives_every_image_once_and_in_order(split: DataSplit, workers: int) -> None:
    loader = build_val_loader(DetectionDataset(split, SIZE), batch_size=2, workers=workers)
    batches = list(loader)
    assert [index for batch in batches for index in batch.indices] == list(range(9))
    assert len(loader) == len(batches) == 5
    shards = [
        build_val_loader(DetectionDataset(split, SIZE), batch_size=2, workers=0, rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert [[i for batch in shard for i in batch.indices] for shard in shards] == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]


def test_fewer_images_than_a_batch(split: DataSplit, caplog) -> None:
    dataset = DetectionDataset(split, SIZE, "light")
    with caplog.at_level(logging.WARNING):
        (batch,) = build_train_loader(dataset, batch_size=64, workers=0, seed=0)
    assert len(batch.images) == 9
    assert "reduced from 64 to 9" in caplog.text
    empty = DetectionDataset(dataclasses.replace(split, records=[]), SIZE)
    with pytest.raises(DataError, match="0 images for 1 processes"):
        build_train_loader(empty, batch_size=2, workers=0, seed=0)


def test_image_of_another_size_than_annotated_is_named(split: DataSplit) -> None:
    wrong = dataclasses.replace(split.records[0], size=(41, 60))
    with pytest.raises(DataError, match=r"0\.png: the image is 60x40 but its annotation says 60x41"):
        DetectionDataset(dataclasses.replace(split, records=[wrong]), SIZE)[0]


def test_default_workers_leave_a_core() -> None:
    assert 0 <= default_workers(torch.device("cpu")) <= 8


@pytest.mark.parametrize(
    ("cores", "processes", "on_cpu", "on_gpu"),
    [(1, 1, 0, 1), (2, 1, 1, 1), (2, 2, 0, 1), (8, 8, 0, 1), (16, 1, 8, 15), (64, 8, 7, 7), (192, 8, 8, 23)],
)
def test_processes_of_a_machine_share_its_cores(monkeypatch, cores, processes, on_cpu, on_gpu) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    assert default_workers(torch.device("cpu"), processes) == on_cpu
    assert default_workers(torch.device("cuda", 3), processes) == on_gpu


@pytest.mark.parametrize("name", ["bccd", "helmet", "coco128"])
def test_real_images_through_the_whole_pipeline(real_data: Path, name: str) -> None:
    split = read_split(find_layout(real_data / name).train)
    dataset = DetectionDataset(split, (300, 300), "ssd")
    for index in range(0, 100, 10):
        sample = dataset[index, index]
        assert sample.image.shape == (3, 300, 300)
        assert (sample.targets.boxes >= 0).all()
        assert (sample.targets.boxes <= 300).all()
