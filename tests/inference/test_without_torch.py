"""Exported files are evaluated and used where there is no PyTorch."""

import subprocess
import sys

import pytest

from .films import write_film

WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Absent())
"""

COMMAND_LINE = """
from ssdlite.cli import main
main()
"""

PROGRAM = """
from ssdlite import Detector

model, image, picture = sys.argv[1:]
detections = Detector.load(model).predict(image, score_threshold=0.3, tile=64)
detections.save(picture)
print(len(detections), len(detections.to_coco(1)))
"""


def run_without_torch(*arguments, program=COMMAND_LINE):
    command = [sys.executable, "-c", WITHOUT_TORCH + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def exported(lively):
    return lively / "model.onnx"


def test_eval_and_predict_of_an_exported_file(exported, drawn, tmp_path, cli):
    options = (f"data={drawn}", "--report", tmp_path / "report.html", "--json")
    evaluated = run_without_torch("eval", exported, *options, tmp_path / "without.json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert (tmp_path / "report.html").is_file()
    assert cli("eval", exported, *options, tmp_path / "with.json").code == 0
    assert (tmp_path / "without.json").read_text() == (tmp_path / "with.json").read_text()
    image = min((drawn / "val").glob("*.jpg"))
    film = write_film(tmp_path / "film.mp4", 3)
    found = run_without_torch("predict", exported, image, film, "--tile", 48, "--output", tmp_path / "pictures")
    assert found.returncode == 0, found.stderr
    assert sorted(path.name for path in (tmp_path / "pictures").glob("*.[jm]p*")) == [image.name, "film.mp4"]


def test_the_python_names_with_an_exported_file(exported, drawn, tmp_path):
    image = min((drawn / "val").glob("*.jpg"))
    found = run_without_torch(exported, image, tmp_path / "picture.png", program=PROGRAM)
    assert found.returncode == 0, found.stderr
    objects, rows = map(int, found.stdout.split())
    assert objects == rows > 0 and (tmp_path / "picture.png").is_file()


def test_what_needs_torch_is_not_there(lively, drawn):
    """The block works: a checkpoint cannot be read behind it."""
    assert "torch is not installed" in run_without_torch("eval", lively / "model.pt", f"data={drawn}").stderr
