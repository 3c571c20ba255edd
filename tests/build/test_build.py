"""Every option reaches the object that it is of."""

import numpy as np
import pytest
import torch

from ssdlite.build.model import empty_detector, load_detector
from ssdlite.build.training import build_criterion, build_loader, build_step
from ssdlite.commands.arguments import require_training
from ssdlite.config.schema import load_config
from ssdlite.errors import ConfigError
from ssdlite.losses.assigners import assign_atss, assign_task_aligned
from ssdlite.losses.classification import quality_focal, varifocal
from ssdlite.losses.matching import assign_iou
from ssdlite.losses.recipes import BoxLoss
from ssdlite.models.corner import CornerDetector
from ssdlite.structures import DataSplit, Record
from ssdlite.training.checkpoint import save_checkpoint


def split(counts=(9, 1)) -> DataSplit:
    """One image with so many objects of each class, and one that is ignored."""
    labels = np.repeat(np.arange(1, len(counts) + 1), counts)
    labels = np.append(labels, 2)
    ignore = np.arange(len(labels)) == len(labels) - 1
    boxes = np.zeros((len(labels), 4), np.float32)
    record = Record("a.jpg", 1, (10, 10), boxes, labels, ignore, np.zeros_like(ignore), boxes[:, 0])
    names = tuple("abcdefgh"[: len(counts)])
    return DataSplit([record], names, tuple(range(len(counts))))


def criterion(*overrides, seed=0):
    return build_criterion(load_config(None, overrides).loss, split(), seed=seed)


def test_multibox():
    options = ["loss.neg_pos_ratio=2", "loss.min_negatives=7", "loss.label_smoothing=.2", "loss.box_weight=5"]
    recipe = criterion(*options, "loss.box_loss=ciou", "loss.class_weights={b: 3}").recipe
    assert (recipe.neg_pos_ratio, recipe.min_negatives, recipe.label_smoothing) == (2, 7, 0.2)
    assert recipe.box == BoxLoss("ciou", 5.0)
    assert recipe.weights.tolist() == [1, 1, 3]


def test_focal():
    recipe = criterion(
        "loss=focal", "loss.alpha=.4", "loss.gamma=1.5", "loss.box_weight=5", "loss.box_loss=diou"
    ).recipe
    assert (recipe.alpha, recipe.gamma, recipe.box) == (0.4, 1.5, BoxLoss("diou", 5.0))


def test_sampled():
    options = ["loss.num_samples=40", "loss.positive_share=.3", "loss.sigma=2", "loss.label_smoothing=.2"]
    recipe = criterion("loss=sampled", *options, "loss.box_weight=5", "loss.class_weights={a: 2}", seed=11).recipe
    assert (recipe.num_samples, recipe.positive_share, recipe.label_smoothing) == (40, 0.3, 0.2)
    assert recipe.box == BoxLoss("smooth_l1", 5.0, beta=0.25)
    assert recipe.seed == 11 and recipe.weights.tolist() == [1, 2, 1]


def test_quality():
    recipe = criterion("loss=quality", "loss.classification=varifocal", "loss.box_weight=5").recipe
    assert recipe.classification is varifocal and recipe.box == BoxLoss("giou", 5.0)
    assert criterion("loss=quality").recipe.classification is quality_focal


def test_corner():
    options = {"heatmap_alpha": 1.0, "heatmap_beta": 3.0, "pull_weight": 0.2, "push_weight": 0.3}
    options |= {"offset_weight": 0.5, "min_overlap": 0.6, "historical_radius": True}
    built = criterion("model.head=corner", *(f"loss.{name}={value}" for name, value in options.items()))
    assert {name: getattr(built, name) for name in options} == options


@pytest.mark.parametrize(
    ("overrides", "function", "options"),
    [
        ([], assign_iou, {"iou_threshold": 0.5, "background_below": None, "all_ties": False}),
        (["loss=focal"], assign_iou, {"iou_threshold": 0.5, "background_below": 0.4, "all_ties": False}),
        (["loss=sampled"], assign_iou, {"iou_threshold": 0.7, "background_below": 0.3, "all_ties": True}),
        (["loss.assignment=atss", "loss.assignment.candidates=5"], assign_atss, {"candidates": 5}),
        (
            ["loss=quality", "loss.assignment.overlap_power=4", "loss.assignment.score_power=.5"],
            assign_task_aligned,
            {"candidates": 13, "score_power": 0.5, "overlap_power": 4.0},
        ),
    ],
)
def test_assignments(overrides, function, options):
    assign = criterion(*overrides).assign
    assert (assign.func, assign.keywords) == (function, options)


def test_balance_counts_the_objects_that_are_learnt():
    weights = criterion("loss.class_weights=balanced").recipe.weights
    assert (weights[2] / weights[1]).item() == pytest.approx(3)  # 9 to 1, without the ignored one
    assert (weights[1] * 9 + weights[2]).item() / 10 == pytest.approx(1)


def test_a_weight_of_an_unknown_class_is_refused():
    with pytest.raises(ConfigError, match="names 'c', but the classes are a, b"):
        criterion("loss.class_weights={c: 2}")


@pytest.mark.parametrize(
    ("overrides", "activation", "class_prior"),
    [
        ([], "softmax", 0.05),
        (["model.dialect=tensorflow"], "sigmoid", 0.05),
        (["loss=focal", "loss.class_prior=.02"], "sigmoid", 0.02),
        (["loss=quality", "loss.class_prior=.03"], "sigmoid", 0.03),
        (["loss=sampled", "model.dialect=tensorflow"], "softmax", 0.05),
    ],
)
def test_the_recipe_decides_how_scores_are_made_and_where_they_start(overrides, activation, class_prior):
    detector = empty_detector(load_config(None, ["model.width=0.25", *overrides]), ("a", "b"))
    assert detector.score_activation == activation
    bias = detector.head.classification[0][-1].bias.view(-1, 3)
    scores = bias.softmax(dim=-1) if activation == "softmax" else bias.sigmoid()
    assert torch.allclose(scores[:, 1:], torch.tensor(class_prior))


def test_the_corner_head():
    config = load_config(None, ["model.width=0.25", "model.head=corner", "model.input_size=64"])
    assert isinstance(empty_detector(config, ("a", "b")), CornerDetector)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_to_validate_on_travel_to_a_gpu_from_pinned_memory(device):
    images = DataSplit([], ("cup",), ())
    loader = build_loader(
        load_config(), images, training=False, alignment="half_pixel", device=torch.device(device), workers=0
    )
    assert loader.pin_memory == (device == "cuda")


def test_a_graph_with_parts_is_refused_to_a_training_and_not_to_a_checkpoint(tmp_path):
    """Versions before trained with both, and what they left is evaluated and exported."""
    graph_and_parts = ["train.compile=reduce-overhead", "train.accumulate=2"]
    config = load_config(None, [*graph_and_parts, "model.width=0.25", "model.input_size=64", "model.weights=none"])
    with pytest.raises(ConfigError, match="cannot keep the gradients of a step's parts"):
        require_training(config, "name", resume=False, device="cpu")
    network = empty_detector(config, ("thing",))
    with pytest.raises(ConfigError, match="cannot keep the gradients of a step's parts"):
        build_step(
            config, network, torch.nn.Identity(), total_steps=1, device=torch.device("cpu"), dtype=torch.float32
        )
    content = {"config": config.to_dict(), "classes": ["thing"], "weights": network.state_dict()}
    save_checkpoint(tmp_path / "old.pt", content)
    assert load_detector(tmp_path / "old.pt").config.train.accumulate == 2
