"""Checkpoints are written whole, read without running code, and refused with a sentence."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from ssdlite.errors import CheckpointError
from ssdlite.training.checkpoint import has_newest, load_checkpoint, load_newest, save_checkpoint, save_newest


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


def save_number(run_dir: Path, number: int, keep: int) -> None:
    save_newest(run_dir, {"classes": [str(number)], "training": {}}, keep=keep)


def number_of(content: dict) -> int:
    return int(content["classes"][0])


def test_the_last_few_are_kept_youngest_first(tmp_path):
    assert not has_newest(tmp_path)
    for number in range(5):
        save_number(tmp_path, number, keep=3)
        assert number_of(load_newest(tmp_path)) == number
    names = ["last.pt", "last-1.pt", "last-2.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert [number_of(load_checkpoint(tmp_path / name)) for name in names] == [4, 3, 2]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 but no more"])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path, damage, caplog):
    for number in range(3):
        save_number(tmp_path, number, keep=3)
    (tmp_path / "last.pt").write_bytes(damage)
    with caplog.at_level("WARNING", "ssdlite"):
        assert number_of(load_newest(tmp_path)) == 1
    (record,) = caplog.records
    assert "last.pt cannot be read as a checkpoint" in record.getMessage()
    assert record.getMessage().endswith(f"Resuming from {tmp_path / 'last-1.pt'}, which is older.")
    for name in ("last-1.pt", "last-2.pt"):
        (tmp_path / name).write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"last-2\.pt cannot be read as a checkpoint"):
        load_newest(tmp_path)


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_a_kill_between_any_two_renames_loses_nothing(tmp_path, moves, monkeypatch):
    """Of writing new.pt, last-1 to last-2, last to last-1 and new to last, the first few are done."""
    for number in range(3):
        save_number(tmp_path, number, keep=3)
    done = []
    rename = Path.replace

    def replace(self, target):
        if len(done) > moves:
            raise KeyboardInterrupt
        done.append(self)
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        if moves < 3:
            with pytest.raises(KeyboardInterrupt):
                save_number(tmp_path, 3, keep=3)
        else:
            save_number(tmp_path, 3, keep=3)
    assert number_of(load_newest(tmp_path)) == 3
    save_number(tmp_path, 4, keep=3)
    assert number_of(load_newest(tmp_path)) == 4
    assert not (tmp_path / "new.pt").exists()


def test_a_full_disk_leaves_all_as_it_was(tmp_path, monkeypatch):
    for number in range(2):
        save_number(tmp_path, number, keep=2)

    def full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*what was there before is whole"):
        save_number(tmp_path, 2, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last-1.pt", "last.pt"]
    assert number_of(load_newest(tmp_path)) == 1


def test_nothing_to_resume_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is nothing to resume: .*last\.pt does not exist"):
        load_newest(tmp_path)


def test_wrong_checksums_fall_back(tmp_path, caplog):
    """One bit in a weight, which torch.load does not notice."""
    for number in range(2):
        content = {"classes": [str(number)], "training": {}, "weights": {"a": torch.arange(1000.0)}}
        save_newest(tmp_path, content, keep=2)
    path = tmp_path / "last.pt"
    data = bytearray(path.read_bytes())
    place = data.find(torch.arange(1000.0).numpy().tobytes()[400:800])
    data[place] ^= 1
    path.write_bytes(data)
    assert torch.load(path)["weights"]["a"].shape == (1000,)
    with caplog.at_level("WARNING", "ssdlite"):
        assert number_of(load_newest(tmp_path)) == 0
    assert "last.pt cannot be read as a checkpoint" in caplog.text


def test_weights_alone_are_no_run_to_resume(tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"classes": ["a"]})
    with pytest.raises(CheckpointError, match="holds weights, but no training to resume"):
        load_newest(tmp_path)
