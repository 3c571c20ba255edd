import json
import math

import numpy as np
import pytest

from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.verify.compare import Difference, Verification
from ssdlite.export.verify.verify import (
    Accuracy,
    Latency,
    Percentiles,
    VerificationImages,
    VerificationReport,
    verify_onnx_export,
)

from ..conftest import DECODER

GOOD = Verification("raw", 3, (1, 4), (Difference("logits", 1e-6, 1e-5, 0, 1),), (), 0)
BAD = Verification("raw", 3, (1, 4), (Difference("logits", 1e-4, 1e-5, 0, 1),), (), 0)
LATENCY = Latency(1, 24, Percentiles(50.0, 60.0), Percentiles(12.0, 13.0))


@pytest.mark.parametrize(
    ("torch", "file", "may_gain", "passed"),
    [
        (0.5, 0.4995, False, True),
        (0.5, 0.5005, False, True),
        (0.5, 0.498, False, False),
        (0.5, 0.502, False, False),
        (0.5, 0.502, True, True),
        (0.5, 0.498, True, False),
        (math.nan, math.nan, False, True),  # no object to find
        (0.5, math.nan, True, False),
    ],
)
def test_how_much_ap_a_file_may_differ_by(torch, file, may_gain, passed):
    assert Accuracy(torch, file, 10, 0.001, may_gain).passed == passed


def test_a_report_needs_both_and_names_what_failed():
    close, far = Accuracy(0.5, 0.5, 10, 0.001, False), Accuracy(0.5, 0.4, 10, 0.001, False)
    assert VerificationReport(GOOD, close, LATENCY).passed and VerificationReport(GOOD, None, LATENCY).passed
    assert (
        not VerificationReport(BAD, close, LATENCY).passed
        and "logits differ" in VerificationReport(BAD, far, LATENCY).summary
    )
    failed = VerificationReport(GOOD, far, LATENCY)
    assert not failed.passed and "AP is 0.4000 on 10 images, where PyTorch has 0.5000" in failed.summary


def test_a_report_as_json():
    document = VerificationReport(GOOD, Accuracy(math.nan, math.nan, 10, 0.001, False), LATENCY).to_dict()
    document = json.loads(json.dumps(document, allow_nan=False))
    assert document["passed"] and document["accuracy"]["torch"] is None and document["accuracy"]["passed"]
    assert document["latency_ms"] == {
        "batch_size": 1,
        "runs": 24,
        "torch": {"p50": 50.0, "p90": 60.0},
        "file": {"p50": 12.0, "p90": 13.0},
    }
    assert document["verification"]["differences"][0]["quantity"] == "logits"


def test_both_are_evaluated_and_timed(files, detector, images):
    seen = []

    def evaluator(predictor):
        seen.append(isinstance(predictor, OnnxPredictor))
        return 0.25

    report = verify_onnx_export(
        files["nms"], detector, DECODER, VerificationImages(images, evaluator, num_evaluated=9)
    )
    assert seen == [False, True]  # of an int8 file there would be a third
    assert report.passed and (report.accuracy.num_images, report.accuracy.plain) == (9, None)
    for found in (report.latency.torch, report.latency.file):
        assert 0 < found.p50 <= found.p90 and np.isfinite(found.p90)


def test_a_file_that_computes_something_else_is_not_evaluated(files, detector, images):
    def evaluator(predictor):
        raise AssertionError("nobody should wait for this")

    other = type(detector)(detector.dialect, num_classes=3, input_size=detector.input_size, width=0.25)
    report = verify_onnx_export(
        files["raw"], other.eval(), DECODER, VerificationImages(images, evaluator, num_evaluated=9)
    )
    assert not report.passed and report.accuracy is None


def test_what_is_no_number_is_null_in_json_and_blamed_first():
    broken = Difference("logits", math.inf, math.inf, 0, 1)
    verification = Verification("raw", 3, (1, 4), (Difference("boxes", 0.01, 0.1, 0, 1), broken), (), 0)
    assert not verification.passed and verification.summary.startswith("logits differ by inf")
    document = json.loads(json.dumps(VerificationReport(verification, None, LATENCY).to_dict(), allow_nan=False))
    assert document["verification"]["differences"][1]["largest"] is None


def test_a_network_that_finds_nothing_says_so(files, detector, images, caplog):
    report = verify_onnx_export(
        files["nms"], detector, DECODER, VerificationImages(images, lambda predictor: 0.0005, 3)
    )
    assert report.passed and "the comparison of AP means little: that of PyTorch is 0.0005" in caplog.text
