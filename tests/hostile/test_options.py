"""Broken and malicious configs and KEY=VALUE words."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdlite.config.schema import config_from_dict, load_config

from .conftest import assert_refused
from .samples import CONFIG


def alias_bomb(depth: int = 12) -> str:
    """Ten to the power of `depth` words in some hundred characters."""
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join(lines) + "\n"


def merge_bomb(depth: int = 12) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, depth)]
    return "\n".join(lines) + "\n"


FILES: list[tuple[str | bytes, str]] = [
    (alias_bomb(), "more than 100000 values"),
    (merge_bomb(), "more than 100000 values"),
    ("loss: {class_weights: {cat: &a [1], dog: *a}}", "the weight of 'cat'"),
    (alias_bomb(4) + "loss: {class_weights: {cat: *a3}}", "the weight of 'cat'"),
    ("data: &a {train: *a}", "an alias contains itself"),
    ("&a [*a]", "an alias contains itself"),
    ("data: !!python/object/apply:os.mkdir [marker]", "could not determine a constructor"),
    ("data: !!python/object/new:os.system [touch marker]", "could not determine a constructor"),
    ("data: !!python/name:os.system", "could not determine a constructor"),
    ("data: !!python/tuple [1]", "could not determine a constructor"),
    ("data: !unknown x", "could not determine a constructor"),
    ("run: {seed: 2023-13-45}", "month must be in 1..12"),
    ("run: {name: !!timestamp x}", "is not valid YAML"),
    ("run: {seed: !!int x}", "is not valid YAML"),
    ("run: {seed: !!float x}", "is not valid YAML"),
    ("run: {seed: !!binary '*'}", "'run.seed'"),
    ("run: {seed: 0x_}", "is not valid YAML"),
    ("run: {seed: " + "9" * 5000 + "}", "small.yaml"),
    ("run: {seed: 0x" + "f" * 5000 + "}", "a number is too large"),
    ("train: {epochs: -0x" + "f" * 5000 + "}", "a number is too large"),
    ("train: {epochs: -1:" + ":".join(["59"] * 3000) + "}", "small.yaml"),
    ("run: {name: a, name: b}", "'name' is given twice"),
    ("run: {name: a}\nrun: {seed: 1}", "'run' is given twice"),
    ("{[a]: 1}", "unhashable"),
    ("{{a: 1}: 1}", "unhashable"),
    ("[" * 100_000, "nested too deeply"),
    ("{a: " * 100_000, "nested too deeply"),
    ("- " * 100_000 + "a", "nested too deeply"),
    ("# " + "x" * 1_000_001, "longer than 1000000 characters"),
    ("a: [", "is not valid YAML"),
    ("a: 'b", "is not valid YAML"),
    ("a:\n\t- b", "is not valid YAML"),
    ("a: *nothing", "is not valid YAML"),
    ("a: 1\n---\nb: 2", "is not valid YAML"),
    ("%YAML 9.9\n---\na: 1", "is not valid YAML"),
    ("a: \x00", "is not valid YAML"),
    ("a: \x1b[31m", "is not valid YAML"),
    (b"a: \xff", "not UTF-8 text"),
    ("just text", "must hold sections"),
    ("- a\n- b", "must hold sections"),
    ("1: 2", "must hold sections"),
    ("null: 2", "must hold sections"),
    ("2023-01-01", "must hold sections"),
    ("data: [5]", "'data'"),
    ("data: {1: 2}", "names of options"),
    ("data: {2023-01-01: 2}", "names of options"),
    ("data: {? : 1}", "names of options"),
    ("data: {path: [a]}", "'data.path'"),
    ("data: {train: {kind: zip}}", "'data.train"),
    ("data: {train: [[]]}", "data.train"),
    ("data: {train: {coco: 1}}", "data.train"),
    ("data: {class_names: [a, a]}", "'a' is named twice"),
    ("data: {class_names: [[[[a]]]]}", "data.class_names"),
    ("loss: []", "loss"),
    ("loss: 5", "loss"),
    ("loss: {kind: [focal]}", "loss"),
    ("loss: {kind: 5}", "loss"),
    ("loss: {assignment: {kind: nope}}", "loss"),
    ("loss: {assignment: [1]}", "loss"),
    ("loss: {class_weights: {? [a] : 1}}", "unhashable"),
    ("loss: {class_weights: {cat: .nan}}", "the weight of 'cat'"),
    ("loss: {class_weights: {cat: true}}", "the weight of 'cat'"),
    ('loss: {class_weights: {"a\\nb\\e": x}}', "the weight of 'a b\\x1b'"),
    ("optim: {lr: .nan}", "'optim.lr'"),
    ("optim: {lr: .inf}", "'optim.lr'"),
    ("optim: {lr: 1e400}", "'optim.lr'"),
    ("optim: {lr: 1_0 0}", "'optim.lr'"),
    ("train: {epochs: 1e9}", "'train.epochs'"),
    ("train: {epochs: -1}", "'train.epochs'"),
    ("train: {epochs: 1.5}", "'train.epochs'"),
    ("train: {epochs: [1]}", "'train.epochs'"),
    ("train: {" + "x" * 900 + ": 1}", "unknown option 'train.xxx"),
    ('train: {"a\\nb": 1}', "unknown option 'train.a b'"),
    ("model: {input_size: 1000000000}", "model.input_size"),
    ("model: {input_size: [96]}", "model.input_size"),
    ("model: {freeze: [[early]]}", "model.freeze"),
    ("run: {name: a/b}", "'run.name'"),
    ("run: {name: " + "/" * 5000 + "}", "'run.name'"),
]


@pytest.mark.parametrize(("content", "sentence"), FILES, ids=range(len(FILES)))
def test_no_config(tmp_path: Path, monkeypatch, content: str | bytes, sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert_refused(lambda: load_config(path), path, sentence)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_odd_configs_are_read_right(tmp_path: Path, encoding: str, ends: str) -> None:
    text = CONFIG.replace("cat", "chien 山").replace("\n", ends)
    (tmp_path / "small.yaml").write_bytes(text.encode(encoding))
    config = load_config(tmp_path / "small.yaml")
    assert config.data.class_names == ["chien 山", "dog"] and config.model.input_size == (96, 128)


def test_aliases_and_merges_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "train: &t {epochs: 5}\ndata: {train: &s {kind: voc, root: a, splits: [b]}, val: *s}"
    )
    config = load_config(tmp_path / "a.yaml")
    assert config.data.train == config.data.val and config.train.epochs == 5
    (tmp_path / "a.yaml").write_text("optim: {lr_factors: {<<: {backbone: 0.5}, head: 2.0}}")
    assert load_config(tmp_path / "a.yaml").optim.lr_factors.head == 2


def test_a_billion_epochs_are_a_number(tmp_path: Path) -> None:
    assert load_config(None, ["train.epochs=1000000000"]).train.epochs == 10**9


WORDS: list[tuple[list[str], str]] = [
    (["train.epochs"], "'train.epochs' is not of the form KEY=VALUE"),
    (["=1"], "'=1' is not of the form KEY=VALUE"),
    (["x" * 100_000], "is not of the form KEY=VALUE"),
    (["train.epochs=1e400"], "'train.epochs'"),
    (["train.epochs=nan"], "'train.epochs'"),
    (["train.epochs=" + "9" * 5000], "train.epochs="),
    (["train.epochs=-0x" + "f" * 5000], "is not valid YAML"),
    (["train.epochs=[" + "[" * 100_000], "is not valid YAML"),
    (["run.seed=2023-13-45"], "is not valid YAML"),
    (["run.seed=!!python/object/apply:os.mkdir [marker]"], "is not valid YAML"),
    (["run.seed=*a"], "is not valid YAML"),
    (["run.seed=&a [*a]"], "is not valid YAML"),
    (["run.seed='a\0'"], "is not valid YAML"),
    (["run.seed='\udcff'"], "is not valid YAML"),
    (["run.name=a\0"], "no control characters"),
    (["run.name=a\nb"], "no control characters"),
    (["data=\udcff"], "not UTF-8"),
    (["data="], "'data=' names nothing"),
    (["run.dir="], "'run.dir=' names nothing"),
    (["run.name=!!python/object/apply:os.mkdir [marker]"], "'run.name'"),
    (["optim={lr: 1, lr: 2}"], "is not valid YAML"),
    (["optim=[1]", "optim=[2]"], "'optim'"),
    (["optim=5", "optim.lr=1"], "'optim' is a value"),
    (["train.epochs.x.y=1"], "'train.epochs"),
    (["a.b.c.d=1"], "unknown option 'a'"),
    ([".=1"], "unknown option"),
    (["train.=1"], "unknown option 'train.'"),
    (["..epochs=1"], "unknown option"),
    (["loss=[]"], "loss"),
    (["loss.assignment=[]"], "loss"),
    (["loss.assignment.kind=[a]"], "loss"),
    (["model.head=[corner]"], "model.head"),
    (["x" * 5000 + "=1"], "unknown option 'xxx"),
    (["train.a\nb=1"], "unknown option 'train.a b'"),
]


@pytest.mark.parametrize(("words", "sentence"), WORDS, ids=range(len(WORDS)))
def test_no_override(tmp_path: Path, monkeypatch, words: list[str], sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(lambda: load_config(None, words), sentence)
    assert not (tmp_path / "marker").exists()


def test_options_of_a_checkpoint_that_explode() -> None:
    """A pickle shares its lists as YAML does."""
    bomb: Any = ["lol"]
    for _ in range(20):
        bomb = [bomb] * 10
    circle: list[Any] = []
    circle.append(circle)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    cases = {"more than 100000 values": bomb, "contains itself": circle, "nested too deeply": deep}
    for sentence, value in (
        cases | {"a number is too large": 10**5000, "a tensor is no option": np.zeros(2)}
    ).items():
        nodes = {"loss": {"class_weights": {"cat": value}}}
        assert_refused(lambda nodes=nodes: config_from_dict(nodes), sentence)


def test_options_of_other_types_than_yaml_has() -> None:
    for value in (datetime.date(2023, 1, 1), b"x", {1}, object, float("nan"), (1, 2), 1j):
        assert_refused(lambda value=value: config_from_dict({"train": {"epochs": value}}), "'train.epochs'")
        assert_refused(lambda value=value: config_from_dict({"loss": value}), "loss")


@pytest.mark.parametrize("words", [["model=5"], ["model=5", "model.head=corner"]])
def test_a_model_that_is_no_section(words: list[str]) -> None:
    assert_refused(lambda: load_config(None, words), "'model'")


@pytest.mark.parametrize("word", ["optim.lr=true", "train.epochs=true", "model.width=true"])
def test_true_is_no_number(word: str) -> None:
    section, name = word.removesuffix("=true").split(".")
    assert_refused(lambda: load_config(None, [word]), f"'{section}' in the command line: {name} must not be true")
