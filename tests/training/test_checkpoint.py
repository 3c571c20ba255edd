"""Checkpoints are written whole, read without running code, and refused with a sentence."""

import os
import pickle

import pytest
import torch

from ssdlite.errors import CheckpointError
from ssdlite.training.checkpoint import load_checkpoint, save_checkpoint


def test_round_trip(tmp_path):
    content = {"weights": {"a": torch.arange(3.0)}, "classes": ["x"], "config": {"run": {"seed": 1}}}
    save_checkpoint(tmp_path / "deep" / "last.pt", content)
    loaded = load_checkpoint(tmp_path / "deep" / "last.pt")
    assert loaded["weights"]["a"].equal(content["weights"]["a"])
    assert loaded["config"] == content["config"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"classes": ["old"]})
    with pytest.raises(Exception):  # noqa: B017 - whatever pickle raises
        save_checkpoint(path, {"classes": lambda: None})
    assert load_checkpoint(path)["classes"] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*last\.pt"):
        save_checkpoint(tmp_path / "file" / "last.pt", {})


class _Payload:
    def __reduce__(self):
        return os.mkdir, ("marker",)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "pickle", "foreign", "schema", "tensor"])
def test_what_is_no_checkpoint_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    match kind:
        case "text":
            path.write_text("hello")
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            save_checkpoint(path, {"weights": {"a": torch.zeros(1000)}})
            path.write_bytes(path.read_bytes()[:2000])
        case "pickle":
            path.write_bytes(pickle.dumps(_Payload()))
        case "foreign":
            torch.save({"state_dict": {}}, path)
        case "schema":
            torch.save({"schema": 99}, path)
        case "tensor":
            torch.save(torch.zeros(3), path)
    with pytest.raises(CheckpointError, match=r"bad\.pt"):
        load_checkpoint(path)
    assert not (tmp_path / "marker").exists()


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"is a folder"):
        load_checkpoint(tmp_path)
