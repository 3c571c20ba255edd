"""Exported files are judged and used where there is no PyTorch."""

import subprocess
import sys

import pytest

WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Absent())
from ssdlite.cli import main
main()
"""


def run_without_torch(*arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def exported(trained):
    from ssdlite.commands.export import export_onnx

    path = trained / "without-torch.onnx"
    options = {"output": path, "head": "nms", "batch": "dynamic", "opset": 18, "verify": False}
    export_onnx(trained / "best.pt", ["eval.score_threshold=0.001"], **options)
    return path


def test_eval_and_predict_of_an_exported_file(exported, drawn, tmp_path, cli):
    judged = run_without_torch("eval", exported, f"data={drawn}", "--json", tmp_path / "without.json")
    assert judged.returncode == 0, judged.stderr
    assert cli("eval", exported, f"data={drawn}", "--json", tmp_path / "with.json").code == 0
    assert (tmp_path / "without.json").read_text() == (tmp_path / "with.json").read_text()
    image = next((drawn / "val").glob("*.jpg"))
    found = run_without_torch("predict", exported, image, "--output", tmp_path / "pictures")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "pictures" / image.name).is_file()


def test_what_needs_torch_is_not_there(trained, drawn):
    """The block works: a checkpoint cannot be read behind it."""
    assert "torch is not installed" in run_without_torch("eval", trained / "best.pt", f"data={drawn}").stderr
