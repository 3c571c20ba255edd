"""Search for the files of the npm package, and checks of what is found."""

import shutil

import pytest

from ssdlite.errors import UserError
from ssdlite.export.web.page import LIBRARY, WASM, find_runtime


@pytest.mark.parametrize("inside", [".", "dist", "onnxruntime-web/dist", "node_modules/onnxruntime-web/dist"])
def test_any_folder_that_a_person_may_mean(fake_runtime, tmp_path, inside):
    folder = tmp_path / "named"
    shutil.copytree(fake_runtime, folder / inside)
    found = find_runtime(folder)
    assert (found.version, found.wasm) == ("9.8.7", b"\0asm and so on")
    assert found.library.endswith(b"export {}")


@pytest.mark.parametrize("place", ["data/onnxruntime-web", "node_modules/onnxruntime-web/dist"])
def test_the_usual_places_need_no_name(fake_runtime, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(fake_runtime, tmp_path / place)
    assert find_runtime().version == "9.8.7"


def test_what_is_missing_is_told_with_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"in data/onnxruntime-web or this folder; run 'npm install onnxruntime-web'"
    ):
        find_runtime()
    with pytest.raises(UserError, match=r"ONNX Runtime Web .* is not in .*gone; .*--runtime"):
        find_runtime(tmp_path / "gone")


def test_half_of_it_is_nothing(fake_runtime):
    (fake_runtime / WASM).unlink()
    with pytest.raises(UserError, match=r"ONNX Runtime Web .* is not in"):
        find_runtime(fake_runtime)


@pytest.mark.parametrize(("name", "content"), [(LIBRARY, b"<!doctype html>"), (WASM, b""), (LIBRARY, b"")])
def test_other_files_of_these_names_are_refused(fake_runtime, name, content):
    (fake_runtime / name).write_bytes(content)
    with pytest.raises(UserError, match="damaged ONNX Runtime Web"):
        find_runtime(fake_runtime)
