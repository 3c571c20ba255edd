import subprocess
import sys
from pathlib import Path

import pytest

from ssdlite.errors import CheckpointError
from ssdlite.export.formats.registry import FORMATS, format_of, open_file


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_known_by_the_name_that_it_gets(name):
    assert format_of(Path("runs/x/best" + FORMATS[name].name_suffix)) == FORMATS[name]
    assert format_of(Path("BEST" + FORMATS[name].suffix.upper())) == FORMATS[name]


@pytest.mark.parametrize("path", ["best.pt", "best.onnx", "best.json", "best", "xml", "best.bin"])
def test_other_files_are_of_no_format(path):
    assert format_of(Path(path)) is None


def test_what_runs_on_other_systems_only_is_said_without_its_package(tmp_path):
    path = tmp_path / "best.mlpackage"
    path.mkdir()
    with pytest.raises(CheckpointError, match=r"Core ML is there on Apple's systems only; use the checkpoint"):
        open_file(path)


def test_the_registry_imports_no_runtime():
    """Every command asks it what a file is, before PyTorch is imported."""
    roots = {module.split(".")[0] for kind in FORMATS.values() for module in kind.modules} | {
        "onnxruntime",
        "torch",
    }
    code = f"import sys, ssdlite.export.formats.registry; print(sorted({roots} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
