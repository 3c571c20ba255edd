"""Drawn images, the resident batch, and the objects made from a workload."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from ssdlite.benchmark.eval import evaluator, simulate_detections, simulate_output
from ssdlite.benchmark.step import Step, restore_relu6
from ssdlite.benchmark.workload import (
    CLASS_NAMES,
    MAX_OBJECTS,
    QUICK,
    SIZE,
    build_network,
    draw_photos,
    loader_for,
    prepare,
    repeated,
    resident_batch,
    start_epoch,
    with_cache,
)
from ssdlite.config.schema import load_config
from ssdlite.data.formats.coco import read_coco
from ssdlite.models.layers import LeanReLU6
from ssdlite.structures import DataSplit, HeadOutput

SMALL = ["model.weights=none", "model.width=0.25", "model.input_size=64", "train.batch_size=4", "eval.batch_size=4"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    return prepare(load_config(None, SMALL), CPU, tmp_path_factory.mktemp("scratch"), quick=True)


def test_photos_are_like_those_of_coco(tmp_path):
    images, annotations = draw_photos(tmp_path, 6)
    split = read_coco(images, annotations)
    assert len(split) == 6 and split.class_names == CLASS_NAMES
    assert all(record.size == SIZE for record in split.records)
    assert all(1 <= len(record.boxes) <= MAX_OBJECTS for record in split.records)
    sizes = [path.stat().st_size for path in images.iterdir()]
    assert 130e3 < np.mean(sizes) < 190e3
    again, _ = draw_photos(tmp_path / "again", 2)
    assert (again / "000002.jpg").read_bytes() == (images / "000002.jpg").read_bytes()


def test_without_data_it_draws_and_leaves_the_other_options(workload):
    assert len(workload.train) == len(workload.val) == QUICK.photos
    assert workload.num_classes == len(CLASS_NAMES) and workload.read_images == 2 * QUICK.photos
    assert workload.config.model.input_size == (64, 64)
    assert all(workload.scratch in record.image_path.parents for record in workload.train.records)


def test_a_large_split_is_thinned_evenly(drawn, tmp_path):
    workload = prepare(load_config(None, [f"data={drawn}", *SMALL]), CPU, tmp_path, quick=True)
    ids = [record.image_id for record in workload.train.records]  # of 24
    assert len(ids) == QUICK.images and ids == sorted(set(ids)) and (ids[0], ids[-1]) == (1, 24)


def test_a_resident_batch_is_like_a_loaded_one(workload):
    loaded = next(start_epoch(loader_for(workload.config, workload.train, 0, device=CPU), 0))
    resident = resident_batch((64, 64), 4, len(CLASS_NAMES), CPU)
    for ours, theirs in zip(resident[:4], loaded[:4], strict=True):
        assert ours.dtype == theirs.dtype and ours.ndim == theirs.ndim
    assert resident.images.shape == loaded.images.shape and resident.images.stride() == loaded.images.stride()
    there = resident.labels > 0
    assert there.any(dim=1).all() and bool((resident.boxes[~there] == 0).all())
    assert resident.boxes.min() >= 0 and resident.boxes.max() <= 64
    assert bool((resident.boxes[there][:, 2:] > resident.boxes[there][:, :2]).all())


def test_seven_objects_an_image():
    batch = resident_batch((64, 64), 400, len(CLASS_NAMES), CPU)
    assert (batch.labels > 0).sum(dim=1).float().mean() == pytest.approx(7, abs=0.5)
    assert 40 < batch.labels.shape[1] <= MAX_OBJECTS  # as many as the fullest image has, as on COCO


def test_no_gradient_outlives_the_network_that_is_timed(workload):
    """The next replay of a CUDA graph would write over those that are kept."""
    timed, kept = Step(workload), []
    timed.step.network.register_forward_pre_hook(
        lambda *_: kept.append(sum(weight.grad is not None for weight in timed.step.model.parameters()))
    )
    timed.network(repeats=2)
    assert kept == [0, 0]


def test_its_loader_is_that_of_a_training_on_the_device(workload):
    gpu = torch.device("cuda")
    for training in (True, False):
        make = partial(loader_for, workload.config, workload.train, 0, training=training)
        assert make(device=gpu).pin_memory and not make(device=CPU).pin_memory


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_cache_gives_the_same_validation_images(workload, tmp_path, kind):
    config = with_cache(workload.config, kind, tmp_path)
    cached = loader_for(config, workload.val, 0, device=CPU, training=False)
    plain = loader_for(workload.config, workload.val, 0, device=CPU, training=False)
    for _ in range(2):
        assert all(torch.equal(ours.images, theirs.images) for ours, theirs in zip(cached, plain, strict=True))
    assert bool(list(tmp_path.iterdir())) == (kind == "disk")
    assert with_cache(config, "none", tmp_path).data.cache == "none"


def test_splits_are_repeated_to_a_length(workload):
    assert len(repeated(workload.train, 33)) == 3 * 16
    assert len(repeated(workload.train, 0)) == 16
    assert len(repeated(dataclasses.replace(workload.train, records=[]), 5)) == 0


def test_plain_activations_compute_the_same(workload):
    network = build_network(workload).eval()
    images = resident_batch((64, 64), 2, len(CLASS_NAMES), CPU).images
    with torch.no_grad():
        before = network(images)
        restore_relu6(network)
        after = network(images)
    assert not any(isinstance(module, LeanReLU6) for module in network.modules())
    assert torch.equal(before.logits, after.logits) and torch.equal(before.deltas, after.deltas)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_simulated_scores_are_those_of_a_trained_network(activation):
    output = simulate_output(HeadOutput(torch.zeros(4, 3000, 21), torch.zeros(4, 3000, 4), torch.zeros(3000, 4)))
    scores = output.logits.softmax(-1) if activation == "softmax" else output.logits.sigmoid()
    assert (scores[..., 1:] > 0.01).sum() / 4 == pytest.approx(470, rel=0.15)


def test_simulated_detections_can_be_judged():
    split, detections = simulate_detections(6)
    assert isinstance(split, DataSplit) and len(split) == 6
    assert all(len(found.scores) == 100 and (np.diff(found.scores) <= 0).all() for found in detections)
    assert all((found.boxes[:, 2:] > found.boxes[:, :2]).all() for found in detections)
    evaluated = evaluator(6, "pycocotools")
    assert evaluated.images == 6 and evaluated.coco_seconds > 0 and evaluated.voc_seconds > 0
