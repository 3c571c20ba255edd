"""What TensorBoard shows of a run that was trained."""

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssdlite.build.data import read_data
from ssdlite.build.training import build_loader
from ssdlite.commands.tensorboard import show_curves, show_hyperparameters, show_matches, watched_batch
from ssdlite.config.schema import load_config
from ssdlite.data.formats.coco import read_coco
from ssdlite.evaluation.curves import class_curves
from ssdlite.evaluation.evaluate import score_detections
from ssdlite.evaluation.matching import match_split
from ssdlite.structures import DataSplit, Detections
from ssdlite.training.loggers import CURVE_THRESHOLDS, Logbook
from tests.conftest import TINY


@pytest.fixture(scope="module")
def board(trained) -> EventAccumulator:
    return EventAccumulator(str(trained), {"tensors": 0, "histograms": 0}).Reload()


def steps_of(events: list) -> list[int]:
    return [event.step for event in events]


def test_figures_and_rates(board):
    tags = board.Tags()
    assert {f"learning_rate/{part}" for part in ("backbone", "extras", "head")} <= set(tags["scalars"])
    assert [event.value for event in board.Scalars("learning_rate/head")] == [
        event.value for event in board.Scalars("train/lr")
    ]
    assert {"train/images_per_second", "train/waiting_for_data", "val/per_class_AP/star"} <= set(tags["scalars"])
    assert tags["images"] == ["samples"]


def test_a_curve_of_every_class_that_has_objects(board, drawn):
    split = read_coco(drawn / "val", drawn / "annotations" / "instances_val.json")
    present = {split.class_names[int(label) - 1] for record in split.records for label in record.labels}
    assert {tag for tag in board.Tags()["tensors"] if tag.startswith("precision_recall/")} == {
        f"precision_recall/{name}" for name in present
    }
    for name in present:
        assert steps_of(board.Tensors(f"precision_recall/{name}")) == [3, 6]


def test_how_objects_find_priors(board):
    learning, best = board.Histograms("priors/learning_an_object"), board.Histograms("priors/best_iou_of_an_object")
    assert steps_of(learning) == steps_of(best) == [3, 6]
    # The same objects each time, and the assignment by IoU does not depend on what the network says.
    assert learning[0].histogram_value == learning[1].histogram_value
    objects = learning[0].histogram_value
    assert objects.num == best[0].histogram_value.num > 20
    mean, reached, unlearnt = (
        board.Scalars(f"priors/{name}")[0].value
        for name in ("mean_learning_an_object", "share_of_objects_reached", "share_of_objects_unlearnt")
    )
    assert mean == pytest.approx(objects.sum / objects.num)
    assert 0.2 < reached <= 1 and 0 <= unlearnt < 0.2


def test_hyperparameters(board):
    assert {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"} == set(
        board.PluginTagToContent("hparams")
    )


class Ear:
    """A logbook that remembers what it is told."""

    def __init__(self) -> None:
        self.told: dict = {}

    def hyperparameters(self, values, figures):
        self.told = dict(values)

    def precision_recall(self, name, step, right, wrong, num_objects):
        self.told[name] = right, wrong, num_objects


def test_hyperparameters_are_what_could_have_been_chosen_otherwise(tmp_path):
    ear = Ear()
    show_hyperparameters(ear, load_config(None, [f"data={tmp_path}", "optim.lr=0.5", *TINY]))
    assert (ear.told["optim.lr"], ear.told["model.width"], ear.told["loss.kind"]) == (0.5, 0.25, "multibox")
    assert ear.told["model.input_size"] == "96 96" and ear.told["optim.lr_factors.head"] == 1
    assert ear.told["train.compile"] == "none" and ear.told["run.seed"] == 0
    assert not any(str(tmp_path) in str(value) for value in ear.told.values())
    assert all(isinstance(value, bool | int | float | str) for value in ear.told.values())


def test_curves_are_those_of_the_detections(drawn):
    split = read_coco(drawn / "val", drawn / "annotations" / "instances_val.json")
    rng = np.random.default_rng(0)
    found = [
        Detections(record.boxes, np.sort(rng.random(len(record.boxes), np.float32))[::-1], record.labels)
        for record in split.records
    ]
    ear = Ear()
    show_curves(ear, 1, split, score_detections(split, found))
    curves = class_curves(split, found, match_split(split, found))
    for name, (right, wrong, num_objects) in ear.told.items():
        curve = curves[name.removeprefix("precision_recall/")]
        assert right[0] == num_objects == curve.num_objects and not wrong.any() and right[-1] == 0
        assert right[63] == curve.at(CURVE_THRESHOLDS[63]).right == curve.at(0.5).right


def test_nothing_there(tmp_path):
    split = DataSplit([], ("cat",), (1,))
    with Logbook(tmp_path) as logbook:
        show_curves(logbook, 1, split, score_detections(split, []))
        show_matches(logbook, 1, None, None, None)  # a criterion without an assignment
    assert not EventAccumulator(str(tmp_path)).Reload().Tags()["tensors"]


@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_the_watched_images_are_the_same_each_time(drawn, augment_on):
    config = load_config(None, [f"data={drawn}", f"data.augment_on={augment_on}", *TINY])
    (split,) = read_data(config.data, ["train"])
    cpu = torch.device("cpu")
    loader = build_loader(config, split, training=True, alignment="half_pixel", device=cpu)
    loader.sampler.set_epoch(3)  # a later epoch sees other draws
    one, other = (watched_batch(loader, 5, (96, 96), cpu) for _ in range(2))
    assert one.images.shape == (5, 3, 96, 96) and one.images.equal(other.images) and one.boxes.equal(other.boxes)
    assert len(watched_batch(loader, 100, (96, 96), cpu).images) == len(split)
