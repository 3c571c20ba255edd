import json

import pytest
import torch

from ssdlite.evaluation.evaluate import evaluate, predict_split, score_detections, warn_of_absent_classes
from ssdlite.structures import Batch, Detections

from .cases import bccd_split, make_record, make_split, random_case, truth_as_detections

A, B = (0, 0, 100, 100), (200, 0, 300, 100)


def make_loader(indices_of_batches):
    """Batches that know only which images they hold."""
    for indices in indices_of_batches:
        count = len(indices)
        yield Batch(
            images=torch.zeros(count, 3, 4, 4, dtype=torch.uint8),
            boxes=torch.zeros(count, 0, 4),
            labels=torch.zeros(count, 0, dtype=torch.int64),
            ignore=torch.zeros(count, 0, dtype=torch.bool),
            image_ids=list(indices),
            original_sizes=[(4, 4)] * count,
            indices=list(indices),
        )


def make_predictor(detections):
    return lambda batch: [detections[index] for index in batch.indices]


def test_the_order_of_the_loader_does_not_matter():
    split, detections = random_case(0)
    predictor = make_predictor(detections)
    shuffled = torch.randperm(len(split), generator=torch.Generator().manual_seed(0)).tolist()
    result = evaluate(predictor, make_loader([shuffled[:13], shuffled[13:]]), split)
    assert result.to_dict() == score_detections(split, detections).to_dict()
    assert result.num_images == 30


def test_two_processes_equal_one():
    split, detections = random_case(1)
    predictor = make_predictor(detections)
    shares = [range(0, 30, 2), [*range(1, 30, 2), 0]]  # a sampler repeats an image to fill the last batch
    parts = [predict_split(predictor, make_loader([share]), len(split)) for share in shares]
    gathered = {**parts[0], **parts[1]}
    first = evaluate(predictor, make_loader([shares[0]]), split, gather=lambda part: gathered)
    assert first.to_dict() == score_detections(split, detections).to_dict()
    assert evaluate(predictor, make_loader([shares[1]]), split, gather=lambda part: None) is None


def test_a_loader_that_leaves_images_out_is_refused():
    split, detections = random_case(0)
    with pytest.raises(AssertionError, match="left out 29 of 30"):
        evaluate(make_predictor(detections), make_loader([[0]]), split)
    with pytest.raises(AssertionError, match="another split"):
        predict_split(lambda batch: [Detections.empty()], make_loader([[30]]), len(split))


def test_progress_wraps_the_loader():
    seen = []

    def progress(batches):
        for batch in batches:
            seen.append(batch.indices)
            yield batch

    split, detections = random_case(0)
    predict_split(make_predictor(detections), make_loader([[0, 1], [2]]), len(split), progress)
    assert seen == [[0, 1], [2]]


class Staged:
    """A predictor in two stages that writes down what it is asked."""

    def __init__(self, detections):
        self.detections = detections
        self.events = []

    def __call__(self, batch):
        return self.finish(self.start(batch))

    def start(self, batch):
        self.events.append(("start", *batch.indices))
        return batch.indices

    def finish(self, handle):
        self.events.append(("finish", *handle))
        return [self.detections[index] for index in handle]


def test_the_next_batch_is_started_before_the_last_is_finished():
    split, detections = random_case(0)
    predictor = Staged(detections)
    shares = [[4, 0], [1], [3, 2]]
    found = predict_split(predictor, make_loader(shares), len(split))
    assert predictor.events == [
        *(("start", 4, 0), ("start", 1), ("finish", 4, 0)),
        *(("start", 3, 2), ("finish", 1), ("finish", 3, 2)),
    ]
    plain = predict_split(make_predictor(detections), make_loader(shares), len(split))
    assert list(found) == list(plain) and all(found[index] is plain[index] for index in plain)


@pytest.mark.parametrize("shares", [[], [[0, 1]]])
def test_few_batches_in_flight(shares):
    split, detections = random_case(0)
    found = predict_split(Staged(detections), make_loader(shares), len(split))
    assert list(found) == [index for share in shares for index in share]


def test_c41_figures_name_their_metric_and_are_json(caplog):
    split = make_split(make_record("a", [(A, 1), (B, 1)], difficult=[1]))
    figures = score_detections(split, truth_as_detections(split)).to_dict()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    ones, nones = pytest.approx(1.0), None
    assert figures["images"] == 1
    assert figures["voc"] == {"VOC07_AP50": ones, "VOC12_AP50": ones}
    assert figures["coco"]["AP"] == ones and figures["coco"]["AP_small"] is None
    names = ("AP", "AP50", "VOC07_AP50", "VOC12_AP50")
    assert figures["per_class"] == {
        "cat": {"objects": 1, **dict.fromkeys(names, ones)},
        "dog": {"objects": 0, **dict.fromkeys(names, nones)},
    }
    warn_of_absent_classes(split)
    assert "1 of 2 classes have no object" in caplog.text and "dog" in caplog.text


def test_empty_split():
    result = evaluate(make_predictor([]), make_loader([]), make_split())
    assert result.num_images == 0 and result.detections == []
    assert set(result.to_dict()["coco"].values()) == {None}


def test_ground_truth_is_perfect_on_real_records():
    split = bccd_split()
    figures = score_detections(split, truth_as_detections(split)).to_dict()
    for name in split.class_names:
        row = figures["per_class"][name]
        assert row["objects"] > 0 and row["AP"] == row["VOC12_AP50"] == pytest.approx(1), name
