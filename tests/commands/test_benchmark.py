"""`ssdlite benchmark` as a person types it, on a network too small to mean anything."""

import importlib
import json
import tempfile

import pytest
import torch

from ssdlite.benchmark import infer
from ssdlite.benchmark.workload import prepare
from ssdlite.commands import benchmark as command
from ssdlite.config.schema import load_config, parse_options
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.export.formats.base import Runtime
from ssdlite.export.formats.registry import RUNTIMES

TINY = ["model.width=0.25", "model.input_size=64", "train.batch_size=4", "eval.batch_size=4", "data.workers=1"]


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """What one quick run of everything writes."""
    path = tmp_path_factory.mktemp("benchmark") / "figures.json"
    command.run_benchmark(None, parse_options(TINY), only=None, json_path=path, quick=True, device="cpu")
    return json.loads(path.read_text())


def find(figures, section, name, unit=None):
    rows = [row for row in figures["rows"] if row["section"] == section and row["name"].startswith(name)]
    return next(row for row in rows if unit in (None, row["unit"]))["value"]


def test_every_section_says_something(figures):
    assert list(dict.fromkeys(row["section"] for row in figures["rows"])) == [
        "loader",
        "step",
        "train",
        "eval",
        "infer",
    ]
    assert all(row["value"] > 0 for row in figures["rows"] if row["name"] != "time waiting for data")
    assert figures["quick"] is True


def test_the_machine_and_the_options_are_named(figures):
    machine = figures["machine"]
    assert machine["processor"] and machine["cores"] > 0 and machine["threads"]["torch"] == torch.get_num_threads()
    assert {"python", "torch", "torchvision", "albumentations", "onnxruntime"} <= set(machine["versions"])
    assert figures["config"]["model"]["input_size"] == [64, 64]
    assert figures["config"]["data"]["train"] is None  # nothing of the folder that is gone by now
    assert "run" not in figures["config"]


def test_ratios_are_quotients_of_what_they_say(figures):
    # one run of each, so that the quotient of the medians is the median of the quotients
    whole = find(figures, "step", "whole step", "ms")
    alone = find(figures, "step", "forward + backward alone")
    assert find(figures, "step", "whole step / forward + backward") == pytest.approx(whole / alone)
    assert find(figures, "step", "whole step", "images/s") == pytest.approx(4000 / whole)
    ours = find(figures, "step", "our step in turn")
    for baseline in ("this network in plain PyTorch", "torchvision"):
        theirs = find(figures, "step", baseline, "ms")
        assert find(figures, "step", baseline, "ratio") == pytest.approx(theirs / ours)
    loaded = find(figures, "train", "training from end to end")
    resident = find(figures, "train", "training on a resident batch")
    assert find(figures, "train", "end to end / resident") == pytest.approx(loaded / resident)


def test_all_parts_of_a_step_are_there(figures):
    parts = ("forward", "assignment", "loss", "backward", "optimizer and clipping", "EMA")
    names = [row["name"] for row in figures["rows"] if row["section"] == "step"]
    assert set(parts) <= set(names)
    assert {f"assignment {kind}, fixed size" for kind in ("iou", "atss", "task-aligned")} <= set(names)


def test_memory_is_stated(figures):
    names = " ".join(f"{row['section']}: {row['name']}," for row in figures["rows"] if row["unit"] == "MB")
    for wanted in ("step: peak of training", "train: peak of", "loader: size of the memory cache", "eval: COCO AP"):
        assert wanted in names


def test_latency_of_both_programs_at_both_batches(figures):
    programs = ["PyTorch, cpu, fp32", "ONNX Runtime, cpu, fp32", "ONNX Runtime, cpu, int8", "OpenCV, cpu, fp32"]
    programs += [
        f"{runtime.program}, cpu, fp32"
        for name, runtime in RUNTIMES.items()
        if runtime.runs_here and runtime.is_installed
    ]
    for program in programs:
        for batch in (1, 8):
            name = f"{program}, batch {batch}, 1 thread"
            assert find(figures, "infer", f"{name}, p50") <= find(figures, "infer", f"{name}, p95")


def test_a_runtime_that_takes_no_part_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Runtime, "is_installed", property(lambda runtime: runtime.name == "ncnn"))
    monkeypatch.setattr(infer, "export_file", refuse)
    workload = prepare(load_config(None, TINY), torch.device("cpu"), tmp_path, quick=True)
    found, left_out = infer.prepare_cases(workload)
    assert "ncnn is left out: no kernel" in left_out and len(left_out) == 4
    assert "OpenVINO is not installed: pip install 'ssdlite[openvino]'." in left_out
    assert not any("ncnn" in case.name for case in found)


def refuse(*_, **options):
    raise CheckpointError("no kernel")


def test_a_network_without_priors_is_measured_too(tmp_path):
    path = tmp_path / "figures.json"
    options = parse_options([*TINY, "model.head=corner"])
    command.run_benchmark(None, options, only="step", json_path=path, quick=True, device="cpu")
    names = [row["name"] for row in json.loads(path.read_text())["rows"]]
    assert "loss" in names and "assignment" not in names


def test_images_that_are_finished_on_the_device_are_measured_too(tmp_path):
    """The loader gives drafts, whose images are no images yet: not to be counted by, and to be finished."""
    path = tmp_path / "figures.json"
    options = parse_options([*TINY, "data.augment_on=device"])
    command.run_benchmark(None, options, only="loader,train", json_path=path, quick=True, device="cpu")
    figures = json.loads(path.read_text())
    assert find(figures, "train", "training from end to end") > 0 and find(figures, "loader", "collate") > 0
    first = find(figures, "loader", "loader, 1 workers, cache=memory, first epoch")
    later = find(figures, "loader", "loader, 1 workers, cache=memory, later epochs")
    assert first < 100 * later  # pixels would be some thousand times the images


def test_sections_run_in_the_order_given():
    assert command.choose_sections("eval, loader,eval") == ["eval", "loader"]
    assert command.choose_sections(None) == ["loader", "step", "train", "eval", "infer"]
    with pytest.raises(ConfigError, match="not ''"):
        command.choose_sections("")


def test_a_wrong_section_is_one_sentence(cli):
    result = cli("benchmark", "--only", "lodaer")
    assert result.code == 2
    assert result.err.strip().splitlines() == [
        "error: --only is loader, step, train, eval, infer or several of them with commas, not 'lodaer'; "
        "did you mean 'loader'?"
    ]


def test_the_defaults_give_way_to_what_is_typed(cli, monkeypatch):
    seen = []
    monkeypatch.setitem(command.SECTIONS, "step", lambda workload: seen.append(workload.config) or [])
    assert cli("benchmark", "--only", "step", "--quick", "train.batch_size=3").code == 0
    assert seen[0].train.batch_size == 3 and seen[0].model.input_size == (300, 300)
    assert set(command.DEFAULTS) >= {"model.input_size", "train.batch_size"}


def test_each_section_is_named_as_its_rows_are():
    modules = {
        name: importlib.import_module(f"ssdlite.benchmark.{section.args[0]}")
        for name, section in command.SECTIONS.items()
    }
    assert {name: module.NAME for name, module in modules.items()} == {name: name for name in modules}


def test_ctrl_c_leaves_nothing(cli, monkeypatch, tmp_path):
    def interrupted(workload):
        assert workload.scratch.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(command.SECTIONS, "step", interrupted)
    result = cli("benchmark", "--only", "step", "--quick", "--json", tmp_path / "figures.json")
    assert result.code == 130 and "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []
