"""Fixtures that several rooms share: real data where it is, a tiny drawn set, a run trained on it.

No test may depend on the processor, the number of threads or the order of tests. Three variables choose what this
machine would: SSDLITE_TEST_THREADS, SSDLITE_TEST_PRECISION (fp32 or bf16, for `train.precision=auto`) and
SSDLITE_TEST_SEED (a random order, and other states of the global generators). Without them the order is that of the
files, the precision that of the machine, and the thread one. `make test-matrix` runs the suite under several.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.settings import sitecustomize

THREADS = int(
    os.environ.get("SSDLITE_TEST_THREADS", "1")
)  # the networks here are tiny: more only wait for each other
PRECISION = os.environ.get("SSDLITE_TEST_PRECISION")
SEED = os.environ.get("SSDLITE_TEST_SEED")

torch.set_num_threads(THREADS)
if PRECISION:  # here by the import above, in the processes that tests start by their own
    search_path = [str(Path(sitecustomize.__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, search_path))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `cuda` without a GPU; with SSDLITE_TEST_SEED, shuffle the files, and the tests in each."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
    if SEED is None:
        return
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    draw = random.Random(SEED)
    groups = list(files.values())
    draw.shuffle(groups)
    for group in groups:
        draw.shuffle(group)
    items[:] = [item for group in groups for item in group]


@pytest.fixture(autouse=True)
def other_generators(request: pytest.FixtureRequest) -> None:
    """With SSDLITE_TEST_SEED each test finds the global generators in a state of its own, also when run alone."""
    if SEED is not None:
        state = zlib.crc32(f"{SEED} {request.node.nodeid}".encode())
        torch.manual_seed(state)
        np.random.seed(state)  # noqa: NPY002
        random.seed(state)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what a failure may depend on, so that it can be seen again."""
    capability = torch.backends.cpu.get_cpu_capability()
    terminalreporter.write_line(
        f"{capability}, {THREADS} threads, precision {PRECISION or 'of the machine'}, "
        + (f"order of SSDLITE_TEST_SEED={SEED}" if SEED is not None else "order of the files")
    )


def environment_of_children() -> dict[str, str]:
    """The variables for a process whose numbers are compared: another number of threads sums in another order."""
    return {**os.environ, "OMP_NUM_THREADS": str(THREADS)}


class Outcome(NamedTuple):
    """What a person sees of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with bccd/, helmet/ and coco128/, named by SSDLITE_TEST_DATA."""
    path = os.environ.get("SSDLITE_TEST_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("SSDLITE_TEST_DATA does not name a folder with bccd, helmet and coco128")
    return Path(path)


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test takes pretrained weights from the user's cache or a network; gives the folder for them."""
    folder = tmp_path_factory.mktemp("weights")
    nowhere = "http://127.0.0.1:9"  # refuses at once
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSDLITE_WEIGHTS_DIR", str(folder))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setenv("https_proxy", nowhere)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder / "none"))
        patch.setenv("npm_config_registry", nowhere)
        yield folder


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`cli("train", "x.yaml")` runs the command line in this process."""
    from ssdlite.cli import main

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the command line brings its own

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ssdlite", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capfd.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return run


TINY = (
    *("model.width=0.25", "model.input_size=96", "model.weights=none", "train.batch_size=8", "data.workers=0"),
    "run.report=false",  # it takes longer than such a training
)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Fails at the end where a test has changed the files that all others read."""

    def state() -> dict[Path, tuple[int, int]]:
        files = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
        return {path: (found.st_size, found.st_mtime_ns) for path, found in files.items()}

    before = state()
    yield
    changed = sorted(str(path) for path, _ in before.items() ^ state().items())
    assert not changed, f"a test has changed what others read: {', '.join(changed)}"


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A drawn data set of 24 + 8 small images."""
    from ssdlite.data.synthetic.dataset import make_synthetic

    path = tmp_path_factory.mktemp("data") / "drawn"
    make_synthetic(path, num_train=24, num_val=8, size=(96, 96), seed=0)
    with kept(path):
        yield path


@pytest.fixture(scope="session")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run of two epochs on `drawn`: enough for every file, not for any accuracy."""
    from ssdlite.commands.train import run_train
    from ssdlite.config.schema import load_config

    runs = tmp_path_factory.mktemp("runs")
    options = [f"data={drawn}", f"run.dir={runs}", "train.epochs=2", "train.val_interval=1", "train.log_interval=2"]
    run_train(load_config(None, [*options, *TINY]), default_name="tiny", resume=False, device="cpu")
    with kept(runs):
        yield runs / "tiny"


@pytest.fixture(scope="session")
def lively(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with model.pt and its model.onnx: a random network that is sure of much, and of something else in
    each picture of `drawn`. Two epochs of training would leave all scores alike."""
    from ssdlite.build.model import empty_detector
    from ssdlite.commands.export import run_export_onnx
    from ssdlite.config.schema import load_config
    from ssdlite.data.images import read_image
    from ssdlite.training.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("lively")
    config = load_config(None, [f"data={drawn}", *TINY])
    class_names = ("ring", "triangle", "rectangle", "star", "cross", "heart")
    torch.manual_seed(0)
    detector = empty_detector(config, class_names).train()
    pictures = [torch.from_numpy(read_image(path)) for path in sorted((drawn / "train").glob("*.jpg"))]
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # its statistics are those of the pictures
    with torch.no_grad():
        detector(torch.stack(pictures).permute(0, 3, 1, 2))
        for branch, spread in ((detector.head.classification, 0.1), (detector.head.regression, 0.05)):
            for predictor in branch:
                torch.nn.init.normal_(predictor[-1].weight, std=spread)
    content = {"config": config.to_dict(), "classes": list(class_names), "metrics": {}}
    save_checkpoint(folder / "model.pt", {**content, "weights": detector.state_dict()})
    options = {"output": folder / "model.onnx", "head": "nms", "batch": "dynamic", "opset": 18, "verify": False}
    run_export_onnx(folder / "model.pt", {}, **options)
    with kept(folder):
        yield folder


class Known(NamedTuple):
    """A network, a data set that it knows, and what it scores there."""

    model: Path  # a checkpoint whose config names the data
    data: Path
    ap: float


@pytest.fixture(scope="session")
def known(lively: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    """`lively`, and the pictures of `drawn` with its own surest answers as the objects in them.

    Every second class has objects of .72 of the width that it says: they are found up to IoU .7, at 5 of COCO's 10
    thresholds, and the others at all 10. So AP is .75, and it stays there: between the objects and what it is less
    sure of lies a gap of scores, and no two of its answers overlap by nearly as much as suppression asks for.
    """
    from ssdlite import Detector
    from ssdlite.training.checkpoint import load_checkpoint, save_checkpoint

    folder = tmp_path_factory.mktemp("known")
    data = shutil.copytree(drawn, folder / "data")
    detector = Detector.load(lively / "model.pt", device="cpu")
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        ids = {category["name"]: category["id"] for category in document["categories"]}
        found = detector.predict([data / split / image["file_name"] for image in document["images"]])
        scores = sorted(thing.score for things in found for thing in things if 0.4 < thing.score < 0.6)
        cut = sum(max(itertools.pairwise(scores), key=lambda pair: pair[1] - pair[0])) / 2
        document["annotations"] = []
        for image, things in zip(document["images"], found, strict=True):
            for thing in things:
                if thing.score > cut:
                    x1, y1, x2, y2 = thing.box
                    width = (x2 - x1) * (0.72 if detector.class_names.index(thing.class_name) % 2 else 1)
                    row = {"id": len(document["annotations"]) + 1, "image_id": image["id"], "iscrowd": 0}
                    row |= {"category_id": ids[thing.class_name], "bbox": [x1, y1, width, y2 - y1]}
                    document["annotations"].append({**row, "area": width * (y2 - y1)})
        path.write_text(json.dumps(document))
    content = load_checkpoint(lively / "model.pt")
    content["config"]["data"]["path"] = str(data)
    save_checkpoint(folder / "model.pt", content)
    with kept(folder):
        yield Known(folder / "model.pt", data, 0.75)
