"""A batch in flight while the next one starts."""

import numpy as np
import torch

from ssdlite.evaluation.evaluate import StagedPredictor, predict_split
from ssdlite.models.decode import Decoder
from ssdlite.models.detector import Detector
from ssdlite.models.predictor import TorchPredictor
from ssdlite.models.variants import DIALECTS
from ssdlite.structures import Batch

SIZE = (64, 96)


def make_batch(indices):
    images = [torch.randint(0, 256, (3, *SIZE), generator=torch.Generator().manual_seed(i)) for i in indices]
    count = len(images)
    return Batch(
        images=torch.stack(images).to(torch.uint8),
        boxes=torch.zeros(count, 0, 4),
        labels=torch.zeros(count, 0, dtype=torch.int64),
        ignore=torch.zeros(count, 0, dtype=torch.bool),
        image_ids=list(indices),
        original_sizes=[(10 + index, 20) for index in indices],
        indices=list(indices),
    )


def test_two_batches_in_flight_give_the_same_to_the_bit():
    torch.manual_seed(0)
    detector = Detector(DIALECTS["paper"], num_classes=3, input_size=SIZE, width=0.25)
    predictor = TorchPredictor(detector, Decoder(SIZE, max_detections=10), torch.device("cpu"))
    assert isinstance(predictor, StagedPredictor)
    shares = [[0, 1], [2], [3, 4]]
    in_flight = predict_split(predictor, map(make_batch, shares), 5)
    one_by_one = predict_split(predictor.__call__, map(make_batch, shares), 5)  # a plain function has no stages
    assert list(in_flight) == list(one_by_one) == [0, 1, 2, 3, 4]
    for index, expected in one_by_one.items():
        assert len(expected.scores) == 10
        for ours, theirs in zip(in_flight[index], expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert (in_flight[0].boxes != in_flight[2].boxes).any()
