"""Arguments as a person types them: what they mean, and how soon a wrong one is answered."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssdlite.data.synthetic.dataset import make_synthetic

from ..conftest import TINY

ODD_NAMES = [
    "my set [v2] (alpha), #1",
    *("2024", "1e5", "0x10", "007", "2024-05-01", "2023-13-45", "12:30:45"),
    *("null", "~nobody-has-this-name", "yes", "no", "true", "none", "auto"),
    *("a: b", "{x}", "[v2]", "data #3", "x=y", "*all", "&all", "!tag", "'quoted'", '"', "- a", "a\\b", " a ", "%a"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "set"
    make_synthetic(path, num_train=2, num_val=1, size=(32, 32), seed=0)
    return path


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_path_means_what_it_says(cli, small, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder in (name, "data"):
        shutil.copytree(small, folder)
    annotations = Path("data/annotations/instances_train.json")
    annotations.write_text(annotations.read_text().replace("ring", "something else"))
    for argument in (f"data={name}", f"data.path={name}", name):
        result = cli("check-data", "--", argument)
        assert result.code == 0, (argument, result)
        assert f"COCO data at {name}:" in result.out and "something else" not in result.out
    run_name = name.replace("\\", "")  # which no run's name may have
    shown = yaml.safe_load(cli("show-config", f"data={name}", f"run.dir={name}", f"run.name={run_name}").out)
    assert (shown["data"]["path"], shown["run"]["dir"], shown["run"]["name"]) == (name, name, run_name)


@pytest.mark.parametrize("option", ["model.weights", "data.cache_dir"])
def test_words_of_an_option_come_before_paths(cli, option):
    for text in ("2024", "a: b", "x #1", "null", "./none"):
        words = [f"{option}={text}"] + (["data.cache=disk"] if option == "data.cache_dir" else [])
        section, name = option.split(".")
        # ./none is written so that it is read as the path again.
        path = Path(text).absolute() if (option, text) == ("model.weights", "./none") else Path(text)
        assert yaml.safe_load(cli("show-config", *words).out)[section][name] == str(path)
    assert yaml.safe_load(cli("show-config", "model.weights=none").out)["model"]["weights"] == "none"


def test_a_training_by_odd_names(cli, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(drawn, "data #3")
    options = ["data=data #3", "run.dir=out #1", "run.name=2024", "train.epochs=1", *TINY]
    assert cli("train", *options).code == 0
    assert (tmp_path / "out #1" / "2024" / "best.pt").is_file()
    written = yaml.safe_load((tmp_path / "out #1" / "2024" / "config.yaml").read_text())
    assert written["data"]["path"] == "data #3" and written["run"]["name"] == "2024"
    result = cli("eval", "out #1/2024/best.pt", "--no-report")
    assert result.code == 0, result.err
    unnamed = [option for option in options if not option.startswith("run.name")]
    assert cli("train", *unnamed).code == 0 and (tmp_path / "out #1" / "data #3" / "best.pt").is_file()


def test_home_is_expanded_as_a_shell_does(cli, small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(small, tmp_path / "photos")
    assert f"COCO data at {tmp_path / 'photos'}:" in cli("check-data", "data=~/photos").out
    for name in ("a.pt", "coco"):
        shown = yaml.safe_load(cli("show-config", "run.dir=~", f"model.weights=~/{name}").out)
        assert (shown["run"]["dir"], shown["model"]["weights"]) == (str(tmp_path), str(tmp_path / name))
    (tmp_path / "config.yaml").write_text("data: ~/photos\n")
    assert f"COCO data at {tmp_path / 'photos'}:" in cli("check-data", tmp_path / "config.yaml").out


FILE = """
data:
  train: {kind: voc, root: 2024-05-01, splits: [1, no, 2023-13-45]}
  val: {kind: coco, images: 0x10, annotations: yes}
  class_names: [no, 1e5, 007, null, 12:30:45, 1_000, a]
  cache: disk
  cache_dir: 1.0
model: {weights: 2024}
loss: {class_weights: {no: 2, 1.0: 3, null: 4, 2024-05-01: 5}}
run: {dir: true, name: 1e5, seed: 0x10, report: no}
optim: {lr: 5e-3}
"""


def test_a_file_keeps_the_text_of_paths_and_names(cli, tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(FILE)
    result = cli("show-config", path)
    assert result.code == 0, result.err
    shown = yaml.safe_load(result.out)
    assert shown["data"]["train"] == [{"kind": "voc", "root": "2024-05-01", "splits": ["1", "no", "2023-13-45"]}]
    assert shown["data"]["val"] == [{"kind": "coco", "images": "0x10", "annotations": "yes"}]
    assert shown["data"]["class_names"] == ["no", "1e5", "007", "null", "12:30:45", "1_000", "a"]
    assert (shown["data"]["cache_dir"], shown["model"]["weights"]) == ("1.0", "2024")
    assert shown["loss"]["class_weights"] == {"no": 2, "1.0": 3, "null": 4, "2024-05-01": 5}
    assert shown["run"] == {"dir": "true", "name": "1e5", "seed": 16, "report": False, "loggers": ["tensorboard"]}
    assert shown["optim"]["lr"] == 0.005
    (tmp_path / "again.yaml").write_text(result.out)
    assert cli("show-config", tmp_path / "again.yaml").out == result.out


def test_null_in_a_file_is_no_path(cli, tmp_path):
    path = tmp_path / "null.yaml"
    path.write_text("data: {path: null, cache_dir: ~}\nrun: {name: null}\n")
    shown = yaml.safe_load(cli("show-config", path).out)
    assert (shown["data"]["path"], shown["data"]["cache_dir"], shown["run"]["name"]) == (None, None, None)
    path.write_text("run: {dir: null}\n")
    assert "'run.dir'" in cli("show-config", path).err


def test_a_section_is_set_before_its_parts_in_any_order(cli):
    for words in (["optim={momentum: 0.5}", "optim.lr=0.25"], ["optim.lr=0.25", "optim={momentum: 0.5}"]):
        optim = yaml.safe_load(cli("show-config", *words).out)["optim"]
        assert (optim["lr"], optim["momentum"]) == (0.25, 0.5)


def test_an_option_longer_than_a_file_name_is_read(cli):
    shapes = ", ".join(["[{scale: 0.10000000000000001, aspect: 1.00000000000000001, density: 1}]"] * 6)
    result = cli("show-config", f"model.priors=[{shapes}]")
    assert result.code == 0 and yaml.safe_load(result.out)["model"]["priors"][5] == [
        {"scale": 0.1, "aspect": 1, "density": 1}
    ]


ABSENT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "albumentations"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Absent())
import contextlib, io
from ssdlite.cli import main

outcomes = []
for arguments in json.load(sys.stdin):
    sys.argv = ["ssdlite", *arguments]
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        try:
            main()
        except SystemExit as stopped:
            outcomes.append([stopped.code, text.getvalue()])
        except AssertionError as error:
            outcomes.append([str(error), text.getvalue()])
assert "torch" not in sys.modules
print(json.dumps(outcomes))
"""

EARLY = [
    (["--help"], 0, "Usage"),
    (["train", "--help"], 0, "Usage"),
    (["train", "optim.lrr=1"], 2, "did you mean 'optim.lr'?"),
    (["train", "data=/nonexistent"], 1, "/nonexistent: there is no such folder"),
    (["train", "configs/nope.yaml"], 2, "cannot read the config configs/nope.yaml"),
    (["train", "data=empty"], 1, "empty: no data set was recognised"),
    (["train", "data=set", "model.weights=nothing.pt"], 2, "but there is no file nothing.pt"),
    (["train", "data=set", "model.weights=cocoo"], 2, "no file cocoo; did you mean 'coco'?"),
    (["train", "data=set", "model.dialect=papr"], 2, "'model.dialect'"),
    (["train", "data=set", "model.width=0.5", "model.weights=imagenet"], 2, "model.width=1.0 only"),
    (["train", "data=set", "model.width=0.5", "model.weights=coco"], 2, "weights 'coco' for model.width=1.0 only"),
    (["train", "data=nothing", "model.weights=pedestrian"], 1, "nothing: there is no such folder"),
    (["train", "data=set", "--device", "gpu"], 2, "unknown device 'gpu'"),
    (["train", "data=set", "--resume", "run.name=never"], 1, "nothing to resume"),
    (["train", "data.train={kind: coco, images: a, annotations: b}"], 1, "a: there is no such folder of images"),
    (
        ["train", "data.train={kind: coco, images: set, annotations: b}", "data.path=set"],
        1,
        "b: the annotations cannot be opened (No such file or directory)",
    ),
    (["train", "data.train={kind: voc, root: set, splits: [a]}"], 1, "JPEGImages: there is no such folder"),
    (["train", "draw.yaml"], 2, "data.draw needs data.path"),
    (["eval", "nothing.pt"], 1, "there is no checkpoint nothing.pt"),
    (["eval", "nothing.onnx"], 1, "there is no model file nothing.onnx"),
    (["eval", "nothing.json", "data=set"], 1, "nothing.json"),
    (["eval", "nothing.pt", "--device", "gpu"], 2, "unknown device 'gpu'"),
    (["eval", "file.pt", "eval.iou=1"], 2, "unknown option 'eval.iou'"),
    (["eval", "file.pt", "--split", "none"], 2, "--split is train, val or test, not 'none'"),
    (["predict", "nothing.pt", "x.jpg"], 1, "there is no checkpoint nothing.pt"),
    (["predict", "file.pt", "x.jpg"], 1, "x.jpg: there is no such file"),
    (["predict", "coco", "x.jpg"], 1, "x.jpg: there is no such file"),
    (["predict", "imagenet", "set"], 2, "a backbone, which a training starts from"),
    (["predict", "./coco", "set"], 1, "/coco."),
    (["eval", "coco", "eval.iou=1"], 2, "unknown option 'eval.iou'"),
    (["report", "imagenet"], 2, "a backbone, which a training starts from"),
    (["export-onnx", "pedestrian", "data.workers=2"], 2, "data.workers has no effect on an export"),
    (["predict", "file.pt", "x.jpg", "--score-threshold", "high"], 2, "give a number from 0 to 1"),
    (["report", "nothing"], 1, "there is no run nothing"),
    (["report", "set"], 1, "set is not the folder of a run"),
    (["export", "nonsense", "x.pt"], 2, "not 'nonsense'"),
    (["export", "ncnn", "nothing.pt"], 1, "there is no checkpoint nothing.pt"),
    (["export", "ncnn", "file.pt", "--head", "nms"], 2, "--head is raw for ncnn"),
    (["export-onnx", "nothing.pt"], 1, "there is no checkpoint nothing.pt"),
    (["export-onnx", "file.pt", "--head", "bad"], 2, "--head is nms, decoded, raw, raw-levels, not 'bad'"),
    (["export-onnx", "file.pt", "--opset", "9"], 2, "opset 9 cannot be written"),
    (["export-onnx", "file.pt", "--size", "32x300"], 2, "model.input_size"),
    (["import-checkpoint", "nothing.pth", "--output", "x.pt"], 1, "there is no file nothing.pth"),
    (["import-checkpoint", "set", "--output", "x.pt"], 1, "set is a folder; name a file"),
    (["import-checkpoint", "file.pt", "--output", "x.pt", "--format", "darknet"], 2, "not 'darknet'"),
    (["export-checkpoint", "nothing.pt", "--output", "x.pth"], 1, "there is no checkpoint nothing.pt"),
    (["fit-priors", "nothing"], 2, "there is no such folder or config file"),
    (["fit-priors", "data=nothing"], 1, "nothing: there is no such folder"),
    (["fit-priors", "set", "model.head=corner"], 2, "has no priors"),
    (["check-data", "nothing"], 2, "there is no such folder or config file"),
    (["view-data", "set", "--split", "none"], 2, "--split is train, val or test, not 'none'"),
    (["benchmark", "--only", "foo"], 2, "--only is loader, step, train, eval, infer"),
    (["benchmark", "data=nothing"], 1, "nothing: there is no such folder"),
    (["benchmark", "--rival", "nothing.onnx"], 2, "there is no such file"),
    (["benchmark", "optim.lrr=1"], 2, "did you mean 'optim.lr'?"),
    (["show-config", "optim.lrr=1"], 2, "did you mean 'optim.lr'?"),
    (["show-config", "model.weights=coco"], 0, "weights: coco"),
]


@pytest.fixture(scope="module")
def early(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int | str, str]]:
    """What each command line of EARLY answers in a process that cannot import PyTorch."""
    folder = tmp_path_factory.mktemp("early")
    shutil.copytree(small, folder / "set")
    (folder / "empty").mkdir()
    (folder / "draw.yaml").write_text("data: {draw: {size: 64}}")
    (folder / "file.pt").write_bytes(b"no checkpoint")
    command = [sys.executable, "-c", ABSENT]
    lines = json.dumps([arguments for arguments, _, _ in EARLY])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {" ".join(case[0]): tuple(outcome) for case, outcome in zip(EARLY, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize(("arguments", "code", "sentence"), EARLY, ids=lambda value: str(value)[:60])
def test_a_mistake_is_answered_without_pytorch(early, arguments, code, sentence):
    assert early[" ".join(arguments)][0] == code and sentence in early[" ".join(arguments)][1]


@pytest.mark.parametrize(("arguments", "bound"), [(["--help"], 1.0), (["train", "optim.lrr=1"], 2.0)])
def test_an_answer_takes_no_seconds(tmp_path, arguments, bound):
    """By the processor's time, which other processes lengthen less; PyTorch alone takes more than 1.4 s of it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "ssdlite", *arguments], cwd=tmp_path, env=environment, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < bound


@pytest.fixture
def places(lively: Path, trained: Path, drawn: Path, tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "result.json").write_text("[]")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("{}")
    return {
        "MODEL": lively / "model.pt",
        "ONNX": lively / "model.onnx",
        "RUN": trained,
        "BEGUN": tmp_path / "begun",
        "RESULT": tmp_path / "result.json",
        "DATA": drawn,
        "IMAGE": min((drawn / "val").glob("*.jpg")),
    }


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("eval RESULT data=DATA model.width=3", "model.width"),
        ("eval RESULT data=DATA eval.score_threshold=0.95", "eval.score_threshold"),
        ("eval RESULT data=DATA eval={max_detections: 10}", "eval.max_detections"),
        ("eval RESULT data=DATA data.augmentation=none", "data.augmentation"),
        ("eval RESULT data=DATA data.workers=2", "data.workers"),
        ("eval RESULT data=DATA --device cpu", "--device cpu"),
        ("eval ONNX data=DATA eval.score_threshold=0.5", "eval.score_threshold"),
        ("eval ONNX data=DATA eval={iou_threshold: 0.5}", "eval.iou_threshold"),
        ("eval ONNX data=DATA --device cuda", "--device cuda"),
        ("eval MODEL data.augmentation=none", "data.augmentation"),
        ("eval MODEL data.cache=memory", "data.cache"),
        ("eval MODEL data.draw.size=64", "data.draw.size"),
        ("report RUN data.vertical_flip=true", "data.vertical_flip"),
        ("report BEGUN data.cache=memory", "data.cache"),
        ("predict ONNX IMAGE --device mps", "--device mps"),
        ("predict MODEL IMAGE --no-pictures --save-json x.json --output y", "--output"),
        ("export-onnx MODEL --no-verify data=DATA", "data"),
        ("export-onnx MODEL --no-verify eval.batch_size=2", "eval.batch_size"),
        ("export-onnx MODEL data.workers=2", "data.workers"),
        ("export openvino MODEL --no-verify data=DATA", "data"),
        ("export coreml MODEL data=DATA", "data"),
        ("export-web MODEL --no-verify data=DATA", "data"),
        ("export-web ONNX --no-verify", "--no-verify"),
        ("check-data DATA optim.lr=1", "optim.lr"),
        ("check-data DATA data.draw.size=64", "data.draw.size"),
        ("view-data DATA model.input_size=96", "model.input_size"),
        ("view-data DATA --augmented optim.lr=1", "optim.lr"),
        ("fit-priors DATA optim.lr=1", "optim.lr"),
        ("benchmark run.name=a", "run.name"),
        ("benchmark train={epochs: 3}", "train.epochs"),
    ],
)
def test_an_option_without_effect_is_refused(cli, places, tmp_path, monkeypatch, line, name):
    monkeypatch.chdir(tmp_path)
    words = line.replace(": ", ":\0").split(" ")
    for key, place in places.items():
        words = [word.replace(key, str(place)) if word in (key, f"data={key}") else word for word in words]
    before = sorted(tmp_path.rglob("*"))
    result = cli(*(word.replace("\0", " ") for word in words))
    assert result.code == 2 and result.err.startswith(f"error: {name} has no effect"), result
    assert len(result.err.splitlines()) == 1 and sorted(tmp_path.rglob("*")) == before


def test_a_fixed_batch_is_no_option_of_prediction(cli, places, tmp_path):
    model = tmp_path / "two.onnx"
    assert cli("export-onnx", places["MODEL"], "--output", model, "--no-verify", "--batch", 2).code == 0
    options = ["--no-pictures", "--save-json", tmp_path / "found.json"]
    result = cli("predict", model, places["IMAGE"], *options, "--batch-size", 3)
    assert result.code == 2 and "--batch-size has no effect on this file, which takes 2 images" in result.err
    assert cli("predict", model, places["IMAGE"], *options, "--batch-size", 2).code == 0


def test_the_options_of_a_result_file_that_have_an_effect(cli, places):
    words = [f"data={places['DATA']}", "data.ignore_unknown=true", "--no-report"]
    assert cli("eval", places["RESULT"], *words).code == 0
    refused = cli(
        "eval",
        places["RESULT"],
        f"data.val={{kind: coco, images: {places['DATA'] / 'val'}, annotations: "
        f"{places['DATA'] / 'annotations' / 'instances_val.json'}}}",
        "--split",
        "train",
    )
    assert refused.code == 2 and "there is no training set" in refused.err


def test_a_typo_is_a_typo_where_few_options_count(cli, places):
    for verb, place in (("eval", "RESULT"), ("check-data", "DATA"), ("fit-priors", "DATA"), ("eval", "MODEL")):
        result = cli(verb, places[place], "data.ignore_unkown=true")
        assert result.code == 2 and "did you mean 'data.ignore_unknown'?" in result.err, (verb, result)


def test_a_recipe_is_where_the_options_begin(cli, tmp_path):
    shown = cli("show-config", "recipe=quality", "optim.lr=0.01")
    assert shown.code == 0, shown.err
    options = yaml.safe_load(shown.out)
    assert (options["loss"]["kind"], options["optim"]["lr"], options["train"]["clip_norm"]) == ("quality", 0.01, 5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["recipe=qualty"], "there is no recipe 'qualty'; did you mean quality?"),
        (
            ["configs/voc.yaml", "recipe=quality"],
            "configs/voc.yaml and recipe=quality are both where the options begin",
        ),
        (["recipe=quickstart", "recipe=quality"], "recipe=quickstart and recipe=quality are both where"),
    ],
)
def test_a_recipe_that_cannot_be_taken_is_refused(cli, words, sentence):
    outcome = cli("show-config", *words)
    assert outcome.code == 2 and sentence in outcome.err
