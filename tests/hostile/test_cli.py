"""Broken input through the door: one line that begins with "error:", exit code 1 or 2, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .samples import COCO, VOC, checkpoint, make_images, make_voc
from .test_models import Marker
from .test_options import alias_bomb

PATIENCE = 60  # seconds, with the start of Python and PyTorch


def make_inputs(folder: Path) -> None:
    """One of each, with something wrong in it."""
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + VOC.replace("dog", "&b;")
    make_voc(folder / "bomb", bomb)
    make_images(folder / "coco" / "val")
    (folder / "coco" / "annotations").mkdir()
    leaving = json.dumps(COCO).replace("a.png", "../../secret\\u001b.png")
    (folder / "coco" / "annotations" / "instances_val.json").write_text(leaving)
    (folder / "laughs.yaml").write_text(alias_bomb())
    (folder / "date.yaml").write_text("run: {seed: 2023-13-45}")
    os.mkfifo(folder / "pipe.yaml")
    torch.save({**checkpoint(), "metrics": Marker(folder / "ran")}, folder / "evil.pt")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "best.onnx").write_bytes(b"\x08\x08" + bytes(100))


CASES: list[tuple[list[str], int, str]] = [
    (["show-config", "laughs.yaml"], 2, "laughs.yaml is not valid YAML: with its aliases"),
    (["show-config", "pipe.yaml"], 2, "cannot read the config pipe.yaml: it is a pipe"),
    (["show-config", "run.seed=2023-13-45"], 2, "is not valid YAML"),
    (["train", "date.yaml"], 2, "month must be in 1..12"),
    (["eval", "deep.json", "data=bomb"], 1, "DOCTYPE"),
    (["eval", "deep.json", "data=coco"], 1, "which names no file"),
    (["eval", "evil.pt"], 1, "holds code"),
    (["predict", "best.onnx", "coco/val/a.png"], 1, "cannot be loaded by onnxruntime"),
    (["import-checkpoint", "evil.pt", "--output", "ours.pt"], 1, "could run code"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), CASES)
def test_one_sentence(cli, tmp_path: Path, monkeypatch, arguments: list[str], code: int, sentence: str) -> None:
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    outcome = cli(*arguments)
    assert outcome.code == code, outcome
    check(tmp_path, outcome.out, outcome.err, sentence)


@pytest.mark.parametrize("case", [CASES[0], CASES[-1]])
def test_one_sentence_of_a_process_of_its_own(tmp_path: Path, case: tuple[list[str], int, str]) -> None:
    """Where nothing catches what the command line does not."""
    arguments, code, sentence = case
    make_inputs(tmp_path)
    command = [sys.executable, "-m", "ssdlite", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=PATIENCE, text=True)
    assert done.returncode == code, done
    check(tmp_path, done.stdout, done.stderr, sentence)


def check(folder: Path, out: str, err: str, sentence: str) -> None:
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and sentence in last, err
    assert "Traceback" not in out + err
    assert not (folder / "ran").exists() and not (folder / "ours.pt").exists()
