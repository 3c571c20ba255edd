"""The script that fetches ONNX Runtime Web, with packages made here in place of npm's."""

from __future__ import annotations

import hashlib
import importlib
import io
import subprocess
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
CONTENTS = {"ort.wasm.bundle.min.mjs": b"library", "ort-wasm-simd-threaded.wasm": b"\0asm"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("fetch_web_runtime")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(module, "SHA256", digests)
    return module


def write_package(path: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**contents, "package.json": b"{}"}.items():
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_two_files_are_taken_out(script: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "runtime"
    script.main(folder, write_package(tmp_path / "package.tgz", CONTENTS))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENTS
    script.main(folder, tmp_path / "gone.tgz")  # there already, so that nothing is fetched


@pytest.mark.parametrize("damage", ["other", "missing", "no package", "gone"])
def test_other_packages_are_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = tmp_path / "package.tgz"
    if damage == "other":
        write_package(path, {**CONTENTS, "ort-wasm-simd-threaded.wasm": b"\0asm of another version"})
    elif damage == "missing":
        write_package(path, {"ort.wasm.bundle.min.mjs": b"library"})
    elif damage == "no package":
        path.write_bytes(b"not found")
    with pytest.raises(script.typer.Exit):
        script.main(tmp_path / "runtime", path)
    sentence = capsys.readouterr().err
    assert "again" in sentence and len(sentence.splitlines()) == 1
    assert not (tmp_path / "runtime").exists()


def test_a_changed_file_is_noticed(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(tmp_path, write_package(tmp_path / "package.tgz", CONTENTS))
    (tmp_path / "ort-wasm-simd-threaded.wasm").write_bytes(b"\0asm, half of it")
    with pytest.raises(script.typer.Exit):
        script.main(tmp_path, None)
    assert "delete it and run again" in capsys.readouterr().err


@pytest.mark.parametrize(("found", "sentence"), [(None, "there is no npm"), ("/bin/npm", "npm cannot fetch")])
def test_npm_that_is_not_there_or_fails(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: str | None,
    sentence: str,
) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[1:3] == ["pack", script.PACKAGE]
        return subprocess.CompletedProcess(command, 1, "", "npm error network\nnpm error more")

    monkeypatch.setattr(script.shutil, "which", lambda name: found)
    monkeypatch.setattr(script.subprocess, "run", run)
    with pytest.raises(script.typer.Exit):
        script.main(tmp_path / "runtime", None)
    assert sentence in capsys.readouterr().err
