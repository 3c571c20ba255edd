"""`eval`, `predict`, `export-onnx`, `show-config`, `make-data` as a person types them."""

import json
import shutil

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml

from ssdlite.build.load import load_model
from ssdlite.build.model import empty_detector, load_detector
from ssdlite.commands.verification_images import calibration_images
from ssdlite.config.schema import load_config
from ssdlite.data.images import read_image, resize
from ssdlite.data.stream import ImageStream
from ssdlite.export.onnx.model import trace_detector
from ssdlite.export.verify.verify import verify_onnx_export as verify_really
from ssdlite.training.checkpoint import save_checkpoint
from tests.export.conftest import shift_mean


@pytest.fixture(scope="module", autouse=True)
def one_trace():
    """A network is traced once for all files that are made of it: tracing takes most of an export."""
    made = {}

    def trace(detector, *, batch=None, opset=18):
        weights = sum(float(parameter.detach().double().sum()) for parameter in detector.parameters())
        key = (batch, opset, detector.input_size, weights)
        if key not in made:
            made[key] = trace_detector(detector, batch=batch, opset=opset)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssdlite.export.exporters.onnx.trace_detector", trace)
        yield


@pytest.fixture(scope="module")
def exported(known, tmp_path_factory):
    """A network that knows its data as ONNX, with the default head."""
    from ssdlite.commands.export import run_export_onnx

    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    options = {"output": path, "head": "nms", "batch": "dynamic", "opset": 18, "verify": True}
    run_export_onnx(known.model, {"eval.score_threshold": 0.001}, **options)
    return path


def figures_of(path):
    return json.loads(path.read_text())


def test_eval_writes_figures_and_results_that_score_the_same(cli, known, tmp_path):
    figures, results = tmp_path / "figures.json", tmp_path / "results.json"
    low, quiet = "eval.score_threshold=0.001", "--no-report"
    first = cli("eval", known.model, low, quiet, "--json", figures, "--detections", results)
    assert first.code == 0, first.err
    assert "AP_small" in first.out and "VOC07_AP50" in first.out
    found = figures_of(figures)
    assert len(found["coco"]) == 12 and set(found["voc"]) == {"VOC07_AP50", "VOC12_AP50"}
    assert found["coco"]["AP"] == pytest.approx(known.ap) and found["coco"]["AP50"] == pytest.approx(1)
    assert {name: row["AP"] for name, row in found["per_class"].items()} == pytest.approx(
        {"ring": 1, "triangle": 0.5, "rectangle": 1, "star": 0.5, "cross": 1, "heart": 0.5}
    )
    rows = figures_of(results)
    assert rows and {row["category_id"] for row in rows} <= {1, 2, 4, 7, 8, 11}  # the data set's own ids
    second = cli("eval", results, f"data={known.data}", "--json", tmp_path / "again.json")
    assert second.code == 0, second.err
    again = figures_of(tmp_path / "again.json")
    for name, value in found["coco"].items():
        assert again["coco"][name] == pytest.approx(value), name


def test_the_exported_file_scores_as_the_checkpoint(cli, known, exported, tmp_path):
    quiet = ("--no-report", "--json")
    assert cli("eval", known.model, "eval.score_threshold=0.001", *quiet, tmp_path / "a.json").code == 0
    assert cli("eval", exported, f"data={known.data}", *quiet, tmp_path / "b.json").code == 0
    torch_figures, onnx_figures = figures_of(tmp_path / "a.json"), figures_of(tmp_path / "b.json")
    assert torch_figures["coco"]["AP"] == pytest.approx(known.ap)
    for name, value in torch_figures["coco"].items():
        assert onnx_figures["coco"][name] == pytest.approx(value), name


def test_the_training_split_can_be_judged(cli, known, tmp_path):
    result = cli("eval", known.model, "--split", "train", "--no-report", "--json", tmp_path / "figures.json")
    assert result.code == 0 and "on 24 images (train)" in result.out
    assert figures_of(tmp_path / "figures.json")["coco"]["AP"] == pytest.approx(known.ap)


@pytest.mark.parametrize("model", ["model.pt", "model.onnx"])
def test_predict_draws_and_writes(cli, lively, drawn, tmp_path, model):
    images = sorted((drawn / "val").iterdir())
    result = cli(
        "predict", lively / model, images[0], drawn / "val", "--output", tmp_path / "out",
        "--json", tmp_path / "found.json", "--score-threshold", 0.5,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert len(list((tmp_path / "out").glob("*.jpg"))) == len(images)  # the image that was named twice came once
    rows = figures_of(tmp_path / "found.json")
    assert [row["image"] for row in rows] == [str(path) for path in images]
    assert all(row["detections"] for row in rows)
    for detection in (detection for row in rows for detection in row["detections"]):
        x1, y1, x2, y2 = detection["box"]
        assert detection["score"] > 0.5 and 0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 96


def test_predict_never_overwrites_its_inputs(cli, trained, drawn, tmp_path):
    image = shutil.copy(drawn / "val" / "000001.jpg", tmp_path / "a.jpg")
    before = image.read_bytes()
    result = cli("predict", trained / "best.pt", image, "--output", tmp_path)
    assert result.code == 2 and "would be overwritten" in result.err
    assert image.read_bytes() == before


def test_predicting_nothing_readable_is_a_failure(cli, trained, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    result = cli("predict", trained / "best.pt", tmp_path / "a.jpg", "--output", tmp_path / "out")
    assert result.code == 1 and "none of the 1 images" in result.err


@pytest.fixture(scope="module")
def cornered(trained, exported, tmp_path_factory):
    """A checkpoint of the dialect tensorflow, and the exported file made to ask for its alignment."""
    folder = tmp_path_factory.mktemp("cornered")
    torch.manual_seed(0)
    config = load_config(None, ["model.dialect=tensorflow", "model.width=0.25", "model.input_size=96"])
    detector = empty_detector(config, ("ring", "heart"))
    header = {"config": config.to_dict(), "classes": ["ring", "heart"], "metrics": {}}
    save_checkpoint(folder / "model.pt", {**header, "weights": detector.state_dict()})
    model = onnx.load(exported)
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"resize_alignment": "half_pixel"', '"resize_alignment": "asymmetric"')
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.mark.parametrize("file", ["model.pt", "model.onnx"])
def test_pictures_are_aligned_as_the_model_asks(cli, trained, cornered, drawn, tmp_path, monkeypatch, file):
    path = cornered / file
    assert load_model(path).alignment == "asymmetric" and load_model(trained / "best.pt").alignment == "half_pixel"
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise[..., ::-1])
    seen = []
    monkeypatch.setattr(
        "ssdlite.inference.images.resize", lambda *arguments: seen.append(arguments[1:]) or resize(*arguments)
    )
    result = cli("predict", path, tmp_path / "noise.png", "--output", tmp_path / "out", "--score-threshold", 0)
    assert result.code == 0, result.err
    assert seen == [((96, 96), "asymmetric")]

    class Spy(ImageStream):
        def __init__(self, *args, **options) -> None:
            seen.append(options["alignment"])
            super().__init__(*args, **options)

    monkeypatch.setattr("ssdlite.commands.eval.ImageStream", Spy)
    known = [] if file == "model.onnx" else ["data.ignore_unknown=true"]
    result = cli("eval", path, f"data={drawn}", *known)
    assert result.code == 0, result.err
    assert seen[1:] == ["asymmetric"]


def test_classes_that_a_model_does_not_know_are_left_out_when_asked(cli, cornered, drawn, tmp_path):
    refused = cli("eval", cornered / "model.pt", f"data={drawn}")
    assert refused.code == 1 and "data.ignore_unknown=true" in refused.err
    options = [f"data={drawn}", "data.ignore_unknown=true", "--json", tmp_path / "figures.json"]
    result = cli("eval", cornered / "model.pt", *options)
    assert result.code == 0, result.err
    assert "other classes" in result.out + result.err
    assert set(figures_of(tmp_path / "figures.json")["per_class"]) == {"ring", "heart"}


def test_c30_results_are_numbered_by_the_training_classes(cli, tmp_path):
    """VOC has no ids of its own: they follow from the training set, also where the evaluated split lacks a
    class."""
    root = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    box = "<bndbox><xmin>11</xmin><ymin>11</ymin><xmax>50</xmax><ymax>50</ymax></bndbox>"
    for stem, names in (("one", ["ant", "bee", "cat"]), ("two", ["bee"])):
        objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in names)
        text = f"<annotation><size><width>96</width><height>96</height></size>{objects}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
        cv2.imwrite(str(root / "JPEGImages" / f"{stem}.jpg"), np.zeros((96, 96, 3), np.uint8))
    (root / "ImageSets/Main/train.txt").write_text("one\n")
    (root / "ImageSets/Main/val.txt").write_text("two\n")
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"image_id": "two", "category_id": 2, "bbox": [10, 10, 40, 40], "score": 0.9}]))
    result = cli("eval", results, f"data={root}", "--json", tmp_path / "figures.json")
    assert result.code == 0, result.err
    assert figures_of(tmp_path / "figures.json")["per_class"]["bee"]["AP50"] == pytest.approx(1)


def test_checkpoint_and_export_predict_the_same(cli, lively, drawn, tmp_path):
    rows = []
    for name, model in (("torch", "model.pt"), ("onnx", "model.onnx")):
        path = tmp_path / f"{name}.json"
        options = ["--output", tmp_path / name, "--json", path, "--score-threshold", 0.5]
        assert cli("predict", lively / model, drawn / "val", *options).code == 0
        rows.append(figures_of(path))
    for ours, theirs in zip(*rows, strict=True):
        found, expected = (
            {(each["label"], *(round(side) for side in each["box"])): each["score"] for each in row["detections"]}
            for row in (ours, theirs)
        )
        same = found.keys() & expected.keys()
        assert len(same) > 0.9 * max(len(found), len(expected)) > 0  # a side may lie between two whole pixels
        assert all(abs(found[key] - expected[key]) < 1e-2 for key in same)


def test_an_exported_file_knows_no_places(cli, known, exported):
    """Nor does the report beside it; so evaluating it needs to be told the data set."""
    report = exported.with_name("tiny.onnx.json")
    for path in (exported, report):
        for place in (known.data, known.model.parent):
            assert str(place).encode() not in path.read_bytes()
    result = cli("eval", exported)
    assert (
        result.code == 2
        and "tiny.onnx holds no paths and does not know its data set: give data=PATH." in result.err
    )
    config = figures_of(report)["metadata"]["config"]
    assert config["data"]["path"] is None and config["model"]["width"] == 0.25 and config["run"]["dir"] == "runs"
    assert load_model(exported).config.loss.kind == "multibox"  # still a whole config


def test_the_report_says_what_was_measured(known, exported):
    report = figures_of(exported.with_name("tiny.onnx.json"))
    proof = report["proof"]
    assert proof["passed"] and proof["verification"]["num_images"] == 8
    accuracy = proof["accuracy"]
    assert accuracy["num_images"] == 8
    assert accuracy["file"] == pytest.approx(known.ap) and accuracy["torch"] == pytest.approx(known.ap)
    assert proof["latency_ms"]["file"]["p50"] > 0
    assert report["opset"] == 18 and report["operators"]["NonMaxSuppression"] == 1
    assert report["runtimes"]["ONNX Runtime"] == [] and report["runtimes"]["OpenCV 4"] == ["NonMaxSuppression"]


def test_levels_of_another_size_from_bytes_at_the_oldest_opset(cli, known, tmp_path):
    path = tmp_path / "model.onnx"
    options = ["--head", "raw-levels", "--size", "64x96", "--input", "uint8-nhwc", "--opset", 13]
    options += ["--tolerance", 1]  # of an AP that means nothing: it knows these images at another size
    result = cli("export-onnx", known.model, "eval.score_threshold=0.001", "--output", path, *options)
    assert result.code == 0, result.err
    assert "Agrees with PyTorch on 8 validation images, at batch 1:" in result.out
    model = onnx.load(path)
    assert model.opset_import[0].version == 13
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 64, 96, 3]
    report = figures_of(tmp_path / "model.onnx.json")
    assert report["metadata"]["config"]["model"]["input_size"] == [64, 96]
    assert report["metadata"]["metrics"] == {}  # those of the training are of its own size
    levels = report["metadata"]["output"]["levels"]
    assert levels[:2] == [[4, 6, 3], [2, 3, 6]]
    assert len(report["priors"]) == sum(height * width * cells for height, width, cells in levels)
    assert cli("eval", path, f"data={known.data}").code == 0


def test_eight_bits(cli, known, tmp_path):
    path = tmp_path / "model.onnx"
    options = ["--precision", "int8", "--head", "decoded", "--batch", 2, "--opset", 17]
    options += ["--tolerance", 1]  # random weights lose any amount of AP to 8 bits
    result = cli("export-onnx", known.model, "--output", path, *options)
    assert result.code == 0, result.err
    model = onnx.load(path)
    assert model.opset_import[0].version == 17 and "QuantizeLinear" in {node.op_type for node in model.graph.node}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    report = figures_of(tmp_path / "model.onnx.json")
    assert report["metadata"]["precision"] == "int8" and report["proof"]["accuracy"]["allowed_loss"] == 1
    assert report["proof"]["accuracy"]["torch"] == pytest.approx(known.ap)
    assert report["proof"]["accuracy"]["plain"] is not None


def test_images_for_calibration_can_be_any_folder(trained, drawn):
    loaded = load_detector(trained / "best.pt", {"data": str(drawn / "gone")})
    pixels = calibration_images(loaded, drawn / "val")
    assert pixels.shape == (8, 3, 96, 96) and pixels.dtype == np.uint8
    first = sorted((drawn / "val").iterdir())[0]
    np.testing.assert_array_equal(pixels[0], resize(read_image(first), (96, 96)).transpose(2, 0, 1))


def test_a_file_that_fails_its_proof_is_not_written(cli, known, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def prove(temporary, detector, decoder, verification_images):
        shift_mean(detector)
        return verify_really(temporary, detector, decoder, verification_images)

    monkeypatch.setattr("ssdlite.export.exporters.onnx.verify_onnx_export", prove)
    options = ["eval.score_threshold=0.001", "--output", path]
    result = cli("export-onnx", known.model, *options)
    assert result.code == 1 and "model.onnx was not written" in result.err and "differ by" in result.err
    assert path.read_bytes() == b"old" and not (tmp_path / "model.onnx.json").exists()
    report = figures_of(tmp_path / "model.onnx.failed.json")
    assert not report["proof"]["passed"] and report["proof"]["accuracy"] is None
    worst = max(row["largest"] / row["allowed"] for row in report["proof"]["verification"]["differences"])
    assert worst > 100  # no matter of rounding
    monkeypatch.undo()
    assert cli("export-onnx", known.model, *options).code == 0
    assert sorted(found.name for found in tmp_path.iterdir()) == ["model.onnx", "model.onnx.json"]


def test_a_checkpoint_is_not_overwritten_by_its_export(cli, trained, tmp_path):
    checkpoint = shutil.copy(trained / "best.pt", tmp_path / "best.pt")
    before = checkpoint.read_bytes()
    result = cli("export-onnx", checkpoint, "--output", checkpoint, "--no-verify")
    assert result.code == 2 and "--output ends with .onnx" in result.err
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_of_no_numbers_gets_a_sentence_and_a_report(cli, lively, tmp_path):
    content = torch.load(lively / "model.pt", weights_only=True)
    content["weights"]["head.regression.0.3.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    result = cli("export-onnx", tmp_path / "nan.pt")
    assert result.code == 1 and "was not written, because" in result.err and "Traceback" not in result.err
    report = figures_of(tmp_path / "nan.onnx.failed.json")
    assert not report["proof"]["passed"] and not (tmp_path / "nan.onnx").exists()


def test_export_without_verification_needs_no_data(cli, known, tmp_path):
    content = torch.load(known.model)
    content["config"]["data"]["path"] = str(tmp_path / "gone")
    torch.save(content, tmp_path / "moved.pt")
    result = cli("export-onnx", tmp_path / "moved.pt", "--output", tmp_path / "m.onnx", "--no-verify")
    assert result.code == 0 and "Not compared" in result.out
    assert figures_of(tmp_path / "m.onnx.json")["proof"] is None


def test_show_config_prints_what_a_training_would_use(cli, tmp_path):
    result = cli("show-config", "optim.lr=0.125", "data=photos")
    assert result.code == 0
    path = tmp_path / "shown.yaml"
    path.write_text(result.out)
    assert load_config(path) == load_config(None, ["optim.lr=0.125", "data=photos"])
    assert yaml.safe_load(cli("show-config").out)["run"]["name"] == "quickstart"


def test_make_data_draws_once(cli, tmp_path):
    arguments = ("make-data", tmp_path / "set", "--images", 12, "--size", 64, "--seed", 3)
    assert cli(*arguments).code == 0
    assert len(list((tmp_path / "set" / "val").iterdir())) == 2
    written = (tmp_path / "set" / "train" / "000001.jpg").stat().st_mtime_ns
    assert cli(*arguments).code == 0
    assert (tmp_path / "set" / "train" / "000001.jpg").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["eval", "none.pt"], 1, "there is no checkpoint none.pt"),
        (["eval", "none.onnx"], 1, "there is no model file none.onnx"),
        (["eval", "none.json", "data=none"], 1, "none: there is no such folder"),
        (["eval", "none.json"], 2, "a result file does not know its data set"),
        (["eval", "CHECKPOINT", "model.width=0.5"], 2, "model.width cannot be changed for a trained model"),
        (["eval", "CHECKPOINT", "--json", "."], 1, "cannot write .: it is a folder"),
        (["eval", "CHECKPOINT", "--split", "none"], 2, "--split is train, val or test, not 'none'"),
        (["eval", "CHECKPOINT", "eval.iou=1"], 2, "unknown option 'eval.iou'"),
        (["eval", "CHECKPOINT", "data=none"], 1, "none: there is no such folder"),
        (["predict", "CHECKPOINT", "none.jpg"], 1, "none.jpg: there is no such file"),
        (["predict", "none.pt", "IMAGE"], 1, "there is no checkpoint none.pt"),
        (["export-onnx", "CHECKPOINT", "--head", "bad"], 2, "--head is nms, decoded, raw, raw-levels, not 'bad'"),
        (["export-onnx", "CHECKPOINT", "--nms", "op", "--head", "raw"], 2, "--nms has no effect with --head raw"),
        (
            ["export-onnx", "CHECKPOINT", "--input", "bgr"],
            2,
            "--input is float-nchw, float-nhwc, uint8-nchw",
        ),
        (["export-onnx", "CHECKPOINT", "--precision", "int4"], 2, "--precision is fp32, fp16, int8, not 'int4'"),
        (["export-onnx", "CHECKPOINT", "--size", "300"], 2, "--size is HEIGHTxWIDTH in pixels such as 240x320"),
        (["export-onnx", "CHECKPOINT", "--size", "32x300"], 2, "model.input_size"),
        (
            ["export-onnx", "CHECKPOINT", "--calibration", "."],
            2,
            "--calibration has no effect with --precision fp32",
        ),
        (["export-onnx", "CHECKPOINT", "--no-reduce-range"], 2, "--reduce-range has no effect with --precision"),
        (["export-onnx", "CHECKPOINT", "--no-verify", "--tolerance", "1"], 2, "no effect with --no-verify"),
        (["export-onnx", "CHECKPOINT", "data=none"], 1, "none: there is no such folder"),
        (["export-onnx", "CHECKPOINT", "--batch", "0"], 2, "--batch is 'dynamic' or a number"),
        (["export-onnx", "CHECKPOINT", "--opset", "9"], 2, "opset 9 cannot be written; choose 13 or above"),
    ],
)
def test_mistakes_get_one_sentence(cli, trained, drawn, tmp_path, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    names = {"CHECKPOINT": trained / "best.pt", "IMAGE": drawn / "val" / "000001.jpg"}
    result = cli(*(names.get(argument, argument) for argument in arguments))
    assert (result.code, sentence in result.err) == (code, True), result.err
    assert len(result.err.strip().splitlines()) == 1


def test_weights_that_do_not_fit_are_refused(cli, trained, tmp_path):
    content = torch.load(trained / "best.pt")
    content["config"]["model"]["width"] = 0.5
    torch.save(content, tmp_path / "odd.pt")
    result = cli("predict", tmp_path / "odd.pt", tmp_path)
    assert result.code == 1
    content["config"]["model"]["nonsense"] = 1
    torch.save(content, tmp_path / "odd.pt")
    assert "unknown option 'model.nonsense'" in cli("eval", tmp_path / "odd.pt").err
