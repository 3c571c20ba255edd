"""`fit-priors` and model.priors=auto, as a person types them."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from ssdlite.build.model import load_detector
from ssdlite.build.priors import cost, fit, with_priors
from ssdlite.commands.fit_priors import advice
from ssdlite.config.schema import load_config
from ssdlite.priors.fit import FitRow
from ssdlite.structures import DataSplit
from tests.conftest import TINY

SMALL = ("model.width=0.25", "model.input_size=96", "model.weights=none")


def row(reached, count=10) -> FitRow:
    return FitRow("all", count, reached, None if reached is None else 0.5, 0, 0, 0, None)


def test_a_folder_is_measured(cli, drawn, tmp_path):
    result = cli("fit-priors", drawn, *SMALL, "--json", tmp_path / "fit.json")
    assert result.code == 0, result.err
    assert max(map(len, result.out.split("reached:")[0].splitlines()[1:])) <= 80
    found = json.loads((tmp_path / "fit.json").read_text())
    before, after = found["before"], found["after"]
    assert (before["num_priors"], before["validation"]["priors"]) == (204, 204)
    assert 204 < after["num_priors"] == after["training"]["priors"] <= 8 * 204
    assert before["training"]["total"]["share_reached"] < 0.7 < after["training"]["total"]["share_reached"]
    assert before["augmented"]["total"]["num_objects"] == after["augmented"]["total"]["num_objects"] > 0
    assert len(found["priors"]) == 6 and found["input_size"] == [96, 96] and found["dialect"] == "paper"
    shares = [f"{100 * part['validation']['total']['share_reached']:.1f}" for part in (before, after)]
    assert " → ".join(shares) in result.out
    assert f"Cost: {after['num_priors']:,} priors (before: 204)" in result.out


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, (0.3, 6)),
        ({"box_weight": 2, "assignment": {"iou_threshold": 0.5}}, (0.3, 6)),
        ({"neg_pos_ratio": 4}, (None, 4)),  # whoever chose keeps that
        ({"assignment": {"kind": "atss"}}, None),
    ],
)
def test_multibox_gets_a_band_for_dense_priors(cli, drawn, tmp_path, own, expected):
    mine, fitted = tmp_path / "mine.yaml", tmp_path / "fitted.yaml"
    mine.write_text(yaml.safe_dump({"data": str(drawn), "loss": own}))
    result = cli("fit-priors", mine, *SMALL, "--write", fitted)
    assert result.code == 0, result.err
    config = load_config(fitted)
    assert any(shape.density > 1 for level in config.model.priors for shape in level)
    assert ("background_below" in result.out) == (expected == (0.3, 6))
    if expected is None:
        assert config.loss == load_config(mine, SMALL).loss
    else:
        assert (config.loss.assignment.background_below, config.loss.neg_pos_ratio) == expected
        assert config.loss.box_weight == own.get("box_weight", 1)


def test_a_config_is_written_that_train_takes(cli, drawn, tmp_path):
    mine, fitted = tmp_path / "mine.yaml", tmp_path / "new folder" / "fitted.yaml"
    mine.write_text(f"data: '{drawn}'\nloss: focal\ntrain: {{batch_size: 8}}\n")
    result = cli("fit-priors", mine, *SMALL, "data.workers=0", "--write", fitted)
    assert result.code == 0, result.err
    assert f"ssdlite train {fitted}" in result.out.replace("\n", " ").replace("  ", " ")
    nodes = yaml.safe_load(fitted.read_text())
    assert nodes["data"] == {"path": str(drawn), "workers": 0} and nodes["train"] == {"batch_size": 8}
    config, plain = load_config(fitted), load_config(mine, [*SMALL, "data.workers=0"])
    assert config.model.priors != "dialect" and with_priors(config, "dialect") == plain
    options = [f"run.dir={tmp_path}", "run.name=own", "train.epochs=1"]
    trained = cli("train", fitted, *options)
    assert trained.code == 0, trained.err
    loaded = load_detector(tmp_path / "own" / "best.pt")
    assert loaded.config.model.priors == config.model.priors
    assert len(loaded.detector.priors) > 204
    again = cli("fit-priors", mine, *SMALL, "--write", fitted)
    assert again.code == 2 and "exists already; let --write name a new file" in again.err
    assert yaml.safe_load(fitted.read_text()) == nodes
    # From its own priors to the same ones there is nothing to gain: they are what is before as well.
    same = cli("fit-priors", fitted, "--json", tmp_path / "same.json")
    assert same.code == 0, same.err
    found = json.loads((tmp_path / "same.json").read_text())
    assert found["before"] == found["after"]


def test_priors_are_fitted_when_a_training_starts_and_kept(cli, drawn, tmp_path):
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=auto", "model.priors=auto", *TINY]
    stopped = cli("train", *options, "train.epochs=2", "train.val_interval=1")
    assert stopped.code == 0, stopped.err
    said = re.search(
        r"Priors fitted: (\d+) in place of 204; ([\d.]+) % .* before ([\d.]+) %", stopped.out.replace("\n", " ")
    )
    assert said and int(said[1]) > 204 and float(said[2]) > float(said[3])
    written = load_config(tmp_path / "auto" / "config.yaml")
    assert written.model.priors not in ("auto", "dialect")
    loaded = load_detector(tmp_path / "auto" / "best.pt")
    assert loaded.config.model.priors == written.model.priors and len(loaded.detector.priors) == int(said[1])

    resumed = cli("train", *options, "train.epochs=2", "train.val_interval=1", "--resume")
    assert resumed.code == 0, resumed.err
    assert "Resuming" in resumed.out and "Priors fitted" not in resumed.out
    assert load_config(tmp_path / "auto" / "config.yaml") == written
    evaluated = cli("eval", tmp_path / "auto" / "best.pt")
    assert evaluated.code == 0 and "Priors fitted" not in evaluated.out
    other = cli("train", *options, "train.epochs=2", "train.val_interval=1", "model.priors=dialect", "--resume")
    assert other.code == 1 and "model.priors is 'dialect', but [[{" in other.err and len(other.err) < 1000
    refused = cli("export-checkpoint", tmp_path / "auto" / "best.pt", "--output", tmp_path / "out.pth")
    assert refused.code == 2


def test_a_run_of_the_dialects_priors_is_not_resumed_with_fitted_ones(cli, trained, drawn):
    options = [
        f"data={drawn}",
        f"run.dir={trained.parent}",
        "run.name=tiny",
        "train.epochs=2",
        "train.val_interval=1",
    ]
    result = cli("train", *options, "train.log_interval=2", *TINY, "model.priors=auto", "--resume")
    assert result.code == 1 and "model.priors is 'auto', but 'dialect' in the run to resume" in result.err


def test_the_same_seed_fits_the_same_priors(drawn):
    from ssdlite.build.data import read_data

    config = load_config(None, [f"data={drawn}", *SMALL])
    (split,) = read_data(config.data, ["train"])
    assert fit(config, split) == fit(config, split)
    assert fit(with_priors(config, "auto"), split) == fit(config, split)


def test_no_objects_leave_the_dialects_priors():
    config = load_config(None, list(SMALL))
    fitted = fit(config, DataSplit([], ("thing",), (1,)))
    assert cost(fitted, ["thing"]) == cost(config, ["thing"])


def test_cost_by_hand():
    """At width .25 the first map has 144 channels: a prior of three classes has 4 + 4 rows there."""
    config = load_config(None, list(SMALL))
    shapes = [[{"scale": 0.1, "aspect": 1}]] * 6
    dense = [[{"scale": 0.1, "aspect": 1, "density": 2}], *shapes[1:]]
    one, four = (cost(with_priors(config, levels), ["a", "b", "c"]) for levels in (shapes, dense))
    assert one.num_priors == 36 + 9 + 4 + 1 + 1 + 1 and four.num_priors == one.num_priors + 3 * 36
    assert one.multiply_adds_per_prior == four.multiply_adds_per_prior == 144 * 8
    assert four.head_parameters - one.head_parameters == 3 * (144 + 1) * 8
    assert four.multiply_adds - one.multiply_adds == 3 * 36 * 144 * 8


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (row(None, 0), row(None, 0), "There is no object"),
        (row(0.97, 100), row(1.0, 100), "reach 97.0 % of the objects: little is to be gained"),
        (row(0.4), row(1.0), "Of 10 objects 6 had no prior of IoU .5"),
        (row(0.4), row(0.9), "now 1 have none"),
    ],
)
def test_advice(before, after, said):
    text = advice(before, after)
    assert said in text
    assert ("larger model.input_size" in text) == (after.share_reached == 0.9)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["absent"], 2, "absent: there is no such folder or config file"),
        ([], 2, "there is nothing to fit priors to: name a folder, a config file, or data=PATH."),
        (["DATA", "model.head=corner"], 2, "model.head=corner has no priors, so there is nothing to fit."),
        (["DATA", "model.input_size=96", "--max-priors", "100"], 2, "--max-priors=100 is less than the 204"),
        (["DATA", "optim.lrr=1"], 2, "did you mean 'optim.lr'?"),
        (["DATA", "--write", "DATA"], 1, "it is a folder; name a file"),
    ],
)
def test_what_cannot_be_fitted_gets_one_sentence(cli, drawn, arguments, code, sentence):
    result = cli("fit-priors", *(argument.replace("DATA", str(drawn)) for argument in arguments))
    assert (result.code, sentence in result.err) == (code, True), result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize("dialect", ["pytorch-ssd", "lufficc", "mmdetection"])
def test_other_programs_do_not_know_priors_of_ones_own(cli, drawn, tmp_path, dialect):
    from ssdlite.build.model import empty_detector
    from ssdlite.training.checkpoint import save_checkpoint

    shapes = [[{"scale": 0.1, "aspect": 1}]] * 6
    config = with_priors(load_config(None, [f"model.dialect={dialect}", "model.input_size=96"]), shapes)
    weights = empty_detector(config, ["thing"]).state_dict()
    save_checkpoint(tmp_path / "own.pt", {"config": config.to_dict(), "classes": ["thing"], "weights": weights})
    result = cli("export-checkpoint", tmp_path / "own.pt", "--output", tmp_path / "out.pth")
    assert result.code == 2 and f"has priors of its own (model.priors), but {dialect} knows" in result.err
    assert not (tmp_path / "out.pth").exists()


def test_benchmark_asks_for_fitted_priors(cli, drawn, tmp_path):
    result = cli("benchmark", f"data={drawn}", *TINY[:-1], "model.priors=auto", "--only", "step", "--quick")
    assert result.code == 2 and "let 'ssdlite fit-priors CONFIG --write FILE' fit them first" in result.err
