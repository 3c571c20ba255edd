"""Exported corner networks: pairs equal to PyTorch's, verification that finds errors, metadata without priors."""

import copy
import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from ssdlite.errors import ConfigError
from ssdlite.export.exporters.onnx import export_onnx
from ssdlite.export.metadata import FileForm
from ssdlite.export.onnx.model import build_model, trace_detector
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.verify.choices import Margins, check_pairs, possible_pairs
from ssdlite.export.verify.compare import verify_onnx
from ssdlite.export.verify.verify import VerificationImages
from ssdlite.models.corner import CornerDetector
from ssdlite.models.decode import decode_output
from ssdlite.models.variants import DIALECTS
from ssdlite.structures import CornerOutput, Detections

from .conftest import DECODER as SSD_DECODER
from .conftest import (
    METADATA,
    SIZE,
    assert_same_detections,
    draw_images,
    save_and_verify,
    shift_mean,
    swap_channels,
)

FORMS = {"nms": FileForm("nms"), "tensor": FileForm("nms", "tensor"), "decoded": FileForm("decoded")}
HEADS = tuple(FORMS)
NONE = Margins(0, 0, 0)


def draw(count, size, seed):
    """Return `draw_images` of any size."""
    height, width = (-(-side // 16) * 16 for side in size)
    return draw_images(count, (height, width), seed)[:, :, : size[0], : size[1]].copy()


@torch.no_grad()
def make_corner_detector(size=SIZE, dialect="paper", seed=0, **options) -> CornerDetector:
    """Random network whose norms were fitted to images, with many pairs in each image."""
    torch.manual_seed(seed)
    detector = CornerDetector(DIALECTS[dialect], num_classes=3, input_size=size, width=0.25, **options).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over what follows
    detector(torch.from_numpy(draw(16, size, seed)))
    for branch in (detector.top_left, detector.bottom_right):
        for predict, std in ((branch.heatmap, 0.5), (branch.embedding, 0.2), (branch.offset, 0.1)):
            nn.init.normal_(predict.weight, std=std)
    return detector.eval()


DECODER = dataclasses.replace(SSD_DECODER, score_threshold=0.47)  # no score of this network is near it


@pytest.fixture(scope="module")
def detector():
    return make_corner_detector()


@pytest.fixture(scope="module")
def images():
    return draw_images(6, SIZE, seed=1)


@pytest.fixture(scope="module")
def traced(detector):
    return trace_detector(detector)


@pytest.fixture(scope="module")
def files(detector, traced, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corner")
    for head, form in FORMS.items():
        model = build_model(traced, detector, form=form, decoder=DECODER, metadata=METADATA)
        assert save_and_verify(model, folder / f"{head}.onnx", detector, images).passed
    return {head: folder / f"{head}.onnx" for head in HEADS}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_boxes_and_scores_are_those_of_pytorch(detector, files, images, batch_size):
    outputs = OnnxPredictor(files["decoded"]).run(images, batch_size)
    with torch.no_grad():
        boxes, scores = decode_output(detector(torch.from_numpy(images)), SIZE)
    assert outputs["boxes"].shape == boxes.shape and outputs["scores"].shape == scores.shape
    for image in range(len(images)):
        found, expected = (
            Detections(np.asarray(b)[image][rows], np.asarray(s)[image][rows, columns], columns + 1)
            for b, s in ((outputs["boxes"], outputs["scores"]), (boxes, scores))
            for rows, columns in [np.nonzero(np.asarray(s)[image] > np.sort(np.asarray(s)[image].max(1))[2])]
        )
        assert len(expected.scores) > 20
        assert_same_detections(found, expected)


def test_detections_are_those_of_the_decoder(detector, files, images):
    with torch.no_grad():
        expected = DECODER(detector(torch.from_numpy(images)), [SIZE] * len(images))
    assert min(len(found.scores) for found in expected) > 3
    for head in HEADS:
        predictor = OnnxPredictor(files[head])
        for found, wanted in zip(predictor.select(predictor.run(images)), expected, strict=True):
            assert_same_detections(found, wanted)


def test_the_metadata_does_not_speak_of_priors(files):
    for head in HEADS:
        properties = {entry.key: entry.value for entry in onnx.load(files[head]).metadata_props}
        document = json.loads(properties["ssdlite"])
        assert document["detector"] == "corner" and "variances" not in document["output"]
        assert "ssdlite.priors" not in properties and "deltas" not in properties["ssdlite"]
        metadata = OnnxPredictor(files[head]).metadata
        assert metadata.variances is None and metadata.priors is None and metadata.score_activation is None


def test_raw_is_refused_before_anything_is_traced(detector, traced, tmp_path):
    for head in ("raw", "raw-levels"):
        options = {"form": FileForm(head), "decoder": DECODER, "metadata": METADATA}
        with pytest.raises(ConfigError, match="choose --head decoded or nms"):
            export_onnx(detector, tmp_path / "raw.onnx", verification_images=None, **options)
        with pytest.raises(ConfigError, match="choose --head decoded or nms"):
            build_model(traced, detector, **options)


def test_an_odd_size_at_the_oldest_opset_and_a_fixed_batch(tmp_path):
    """Maps of 10×12, 5×6 and 3×3, and the linear tap."""
    detector = make_corner_detector((75, 90), "lufficc")
    images = draw(3, (75, 90), seed=2)
    decoder = dataclasses.replace(DECODER, input_size=(75, 90))
    path = tmp_path / "odd.onnx"
    options = {
        "decoder": decoder,
        "metadata": METADATA,
        "verification_images": VerificationImages(images),
        "batch": 2,
        "opset": 13,
    }
    assert export_onnx(detector, path, **options).passed
    assert [entry.version for entry in onnx.load(path).opset_import] == [13]
    with torch.no_grad():
        expected = decoder(detector(torch.from_numpy(images)), [(75, 90)] * 3)
    predictor = OnnxPredictor(path)
    for found, wanted in zip(predictor.select(predictor.run(images)), expected, strict=True):
        assert_same_detections(found, wanted)


def shift_offsets(detector):
    detector.top_left.offset.bias += 0.05  # 0.4 pixels


def spread_embeddings(detector):
    detector.bottom_right.embedding.bias += 0.05


def swap_kinds(detector):
    left, right = detector.top_left, detector.bottom_right
    left.heatmap, right.heatmap = right.heatmap, left.heatmap


def raise_scores(detector):
    detector.top_left.heatmap.bias += 0.02


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "plant", [shift_mean, swap_channels, shift_offsets, spread_embeddings, swap_kinds, raise_scores]
)
def test_planted_errors_of_the_network_are_found(files, detector, images, head, plant):
    wrong = copy.deepcopy(detector)
    with torch.no_grad():
        plant(wrong)
    verification = verify_onnx(files[head], wrong, images)
    assert not verification.passed and verification.summary


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("Sqrt", "Identity", "differ"),  # p₁ p₂ for a score
        ("Abs", "Relu", "differ"),  # embeddings agree whenever the first is the smaller one
        ("Less", "GreaterOrEqual", "missing"),
    ],
)
def test_planted_errors_of_the_decoding_are_found(files, detector, images, tmp_path, old, new, problem):
    model = onnx.load(files["decoded"])
    matching = [node for node in model.graph.node if node.op_type == old]
    assert matching
    for node in matching:
        node.op_type = new
    onnx.save(model, tmp_path / "wrong.onnx")
    verification = verify_onnx(tmp_path / "wrong.onnx", detector, images)
    assert not verification.passed
    assert problem in " ".join([*verification.problems, *map(str, verification.differences)])


@pytest.mark.parametrize(
    ("constant", "value", "problem"),
    [
        ("iou_threshold", 0.7, "should have suppressed each other"),
        ("iou_threshold", 0.3, "missing"),
        ("score_threshold", 0.8, "missing"),
        ("score_threshold", 0.2, "scores that are too low"),
    ],
)
def test_planted_errors_of_the_suppression_are_found(files, detector, images, tmp_path, constant, value, problem):
    model = onnx.load(files["nms"])
    for tensor in model.graph.initializer:
        if tensor.name == constant:
            tensor.CopyFrom(numpy_helper.from_array(np.array([value], np.float32), tensor.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    verification = verify_onnx(tmp_path / "wrong.onnx", detector, images)
    assert not verification.passed and problem in " ".join(verification.problems)


def test_a_network_that_gives_no_numbers_does_not_pass(files, detector, images):
    for name in ("heatmap", "embedding", "offset"):
        broken = copy.deepcopy(detector)
        with torch.no_grad():
            getattr(broken.top_left, name).bias[0] = float("nan")
        for head in HEADS:
            assert not verify_onnx(files[head], broken, images).passed, name


def random_maps(seed, classes=2, cells=(18, 22)):
    """Maps with about 85 peaks of each kind and 500 pairs among the best 64; some embeddings do not match."""
    generator = np.random.default_rng(seed)
    shapes = ((2, classes, *cells), (2, *cells), (2, 2, *cells))
    scales = (1, 0.15, 0.3)
    return tuple(scale * generator.normal(size=shape) for scale, shape in zip(scales, shapes, strict=True))


def torch_pairs(maps, size):
    tensors = (torch.from_numpy(part)[None].float() for part in maps)
    boxes, scores = (part[0].numpy() for part in decode_output(CornerOutput(*tensors, size), size))
    rows, columns = np.nonzero(scores)
    return Detections(boxes[rows], scores[rows, columns], columns + 1)


@pytest.mark.parametrize("seed", range(5))
def test_without_margins_the_possible_pairs_are_the_certain_ones_and_pytorchs(seed):
    """Limits of 64 corners and 400 pairs, which both implementations apply."""
    maps, size = random_maps(seed), (144, 176)
    pairs = possible_pairs(*maps, size, NONE, 0.0)
    found = torch_pairs(maps, size)
    assert pairs.is_certain[:-1].all() and not pairs.is_certain[-1]
    assert len(found.scores) == len(pairs.scores) - 1 == 400
    assert list(check_pairs(found, pairs.boxes, pairs.scores, ~pairs.is_certain, (1e-3, 1e-5))) == []


@pytest.mark.parametrize("seed", range(3))
def test_with_margins_certain_pairs_stay_and_new_ones_were_possible(seed):
    maps, size, margin = random_maps(seed), (144, 176), 0.01
    # A score moves by a quarter of a logit, and by at most twice what two embeddings move.
    score_margin = margin / 4 + 4 * margin
    pairs = possible_pairs(*maps, size, Margins(margin, margin, margin), score_margin)
    generator = np.random.default_rng(100 + seed)
    changed = tuple(part + generator.uniform(-margin, margin, part.shape) for part in maps)
    found = torch_pairs(changed, size)
    assert 50 < pairs.is_certain.sum() < len(found.scores) <= len(pairs.scores) - 1
    allowed_box, allowed_score = 8 * margin + 1e-3, score_margin + 1e-5
    assert list(check_pairs(found, *pairs[:2], ~pairs.is_certain, (allowed_box, allowed_score))) == []
    numbers, columns = np.nonzero(pairs.scores)
    is_known = found.labels[:, None] == columns[None] + 1
    is_known &= np.abs(found.boxes[:, None] - pairs.boxes[numbers][None]).max(axis=2) <= allowed_box
    is_known &= np.abs(found.scores[:, None] - pairs.scores[numbers, columns][None]) <= allowed_score
    assert is_known.any(axis=1).all()


def test_missing_and_superfluous_pairs_are_named():
    maps, size = random_maps(0), (144, 176)
    pairs = possible_pairs(*maps, size, NONE, 0.0)
    found = torch_pairs(maps, size)
    limits = (pairs.boxes, pairs.scores, ~pairs.is_certain, (1e-3, 1e-5))
    assert list(check_pairs(Detections(*(part[2:] for part in found)), *limits)) == ["2 pairs are missing"]
    doubled = Detections(*(np.concatenate([part, part[:3]]) for part in found))
    assert list(check_pairs(doubled, *limits)) == ["3 pairs are superfluous"]


def test_images_that_tell_nothing_are_verified_by_their_maps_with_a_warning(detector, images, tmp_path, caplog):
    """In a uniform map all cells tie, so the selection of corners cannot be verified."""
    maps = np.zeros((2, 2, 40, 40)), np.zeros((2, 40, 40)), np.zeros((2, 2, 40, 40))
    assert possible_pairs(*maps, (320, 320), NONE, 0.0) is None
    flat = copy.deepcopy(detector)
    with torch.no_grad():
        for branch in (flat.top_left, flat.bottom_right):
            for predict in (branch.heatmap, branch.embedding, branch.offset):
                predict.weight.zero_()
    options = {"form": FileForm("decoded"), "decoder": DECODER, "metadata": METADATA}
    model = build_model(trace_detector(flat), flat, **options)
    assert save_and_verify(model, tmp_path / "flat.onnx", flat, images).passed
    assert "not verified on 6 of 6 images" in caplog.text
    verification = verify_onnx(tmp_path / "flat.onnx", detector, images)
    assert not verification.passed and verification.worst.quantity in ("heatmaps", "embeddings", "offsets")
