"""What cannot be imported or exported: one sentence that names the file, exit code 1 or 2, nothing written."""

import os

import pytest
import torch

from ssdlite.build.model import empty_detector, load_detector
from ssdlite.config.schema import config_from_dict
from ssdlite.training.checkpoint import save_checkpoint

from .conftest import PROGRAMS
from .reference import mmdetection_shapes, pytorch_ssd_shapes, random_state


@pytest.fixture
def refused(cli, tmp_path):
    """`refused(source, ...)` imports, expects to fail, and gives the sentence."""

    def run(source, *options, code=1):
        output = tmp_path / "ours.pt"
        outcome = cli("import-checkpoint", source, "--output", output, *options)
        assert outcome.code == code, outcome
        return one_sentence(outcome, output)

    return run


def one_sentence(outcome, output):
    assert not output.exists()
    sentence = outcome.err.removesuffix("\n")
    assert sentence.startswith("error: ") and "\n" not in sentence and sentence.endswith("."), outcome
    return sentence


def test_a_missing_tensor(refused, write, program, states):
    state = dict(states[program.dialect])
    name = list(state)[40]
    del state[name]
    source = write(program.wrap(state))
    sentence = refused(source)
    assert str(source) in sentence and f"lacks {name};" in sentence and "--format" in sentence


def test_a_left_over_tensor(refused, write, program, states):
    state = {**states[program.dialect], "ema.scale": torch.zeros(1)}
    source = write(program.wrap(state))
    assert refused(source) == (
        f"error: {source} holds more than a {program.dialect} MobileNetV2-SSDLite: nothing takes ema.scale."
    )


def test_another_width(refused, write, program, states):
    halved = {
        name: tensor[::2] if tensor.dim() == 1 and "headers" not in name and "bbox_head" not in name else tensor
        for name, tensor in states[program.dialect].items()
    }
    sentence = refused(write(program.wrap(halved)))
    assert "is not of width 1" in sentence and "(16,), not (32,)" in sentence


@pytest.mark.parametrize(
    ("key", "rows", "sentence"),
    [
        ("classification_headers.0.3.bias", 12, "level 1 of its classification heads has 18 rows, not 12"),
        ("classification_headers.3.3.bias", 12, "level 3 of its classification heads has 12 rows, not 18"),
        ("classification_headers.0.3.bias", 6, "level 0 of its classification heads has 6 rows, not 12"),
        ("regression_headers.5.bias", 16, "level 5 of its regression heads has 16 rows, not 24"),
    ],
)
def test_other_priors(refused, write, key, rows, sentence):
    state = {**random_state(pytorch_ssd_shapes(3)), key: torch.zeros(rows)}
    assert f"has other priors than pytorch-ssd: {sentence}." in refused(write(state))


def test_other_priors_of_mmdetection(refused, write):
    """The columns are rolled by their number, which must come out even first."""
    state = {**random_state(mmdetection_shapes(5)), "bbox_head.cls_convs.0.1.bias": torch.zeros(31)}
    assert "has 31 rows, not 30." in refused(write({"state_dict": state}))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"conv1.weight": torch.zeros(1)}, "is of no known program (its first tensor is conv1.weight); known are"),
        ({}, "holds no state_dict."),
        (torch.zeros(3), "holds no state_dict."),
        ([torch.zeros(3)], "holds no state_dict."),
        ({"state_dict": {}, "meta": {}}, "holds no state_dict."),
        ({"net": {"a": torch.zeros(1)}, "epoch": 3}, "net is no tensor; save the network's state_dict alone."),
    ],
)
def test_an_unknown_program(refused, write, content, sentence):
    assert sentence in refused(write(content))


def test_mobilenet_v1_of_pytorch_ssd(refused, write):
    state = {
        "base_net.0.0.weight": torch.zeros(32, 3, 3, 3),
        "base_net.0.1.weight": torch.zeros(32),
        "base_net.1.0.weight": torch.zeros(32, 1, 3, 3),
        "extras.0.0.weight": torch.zeros(256, 1024, 1, 1),
        "classification_headers.0.weight": torch.zeros(126, 512, 3, 3),
    }
    sentence = refused(write(state))
    assert "is not a whole pytorch-ssd MobileNetV2-SSDLite: it lacks base_net.0.1.bias, " in sentence
    assert len(sentence) < 600


def test_the_wrong_format(refused, write, states):
    source = write(states["pytorch-ssd"])
    assert "is not a whole mmdetection MobileNetV2-SSDLite" in refused(source, "--format", "mmdetection")
    assert f"{source} cannot be read as a frozen TensorFlow graph." in refused(source, "--format", "tensorflow")


def test_a_misspelt_format(refused, write, states):
    sentence = refused(write(states["lufficc"]), "--format", "mmdet", code=2)
    assert sentence.endswith("--format is one of auto, pytorch-ssd, lufficc, mmdetection, tensorflow, not 'mmdet'.")


class Marker:
    """A pickle of this makes a folder when it is read carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["state", "meta"])
def test_code_does_not_run(refused, tmp_path, states, zipped, place):
    marker, source = tmp_path / "ran", tmp_path / "evil.pth"
    extra = {"state_dict": states["mmdetection"], "meta": {"hook": Marker(marker)}}
    content = extra if place == "meta" else {"base_net.0.0.weight": Marker(marker)}
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    for file_format in ("auto", *PROGRAMS):
        sentence = refused(source, "--format", file_format)
        assert f"{source} is not read" in sentence and "could run code" in sentence and ".mkdir)" in sentence
        assert not marker.exists()
    torch.load(source, weights_only=False)
    assert marker.exists(), "the trap was none"


def damage(whole, kind):
    match kind:
        case "empty":
            return b""
        case "truncated":
            return whole[: len(whole) // 2]
        case "one byte short":
            return whole[:-1]
        case "web page":
            return b"<!DOCTYPE html><html>404</html>"
        case "text":
            return b"version https://git-lfs.github.com/spec/v1\n"
        case "garbled":  # lets PyTorch's reader trip over its own assertions
            return whole[:2] + bytes(byte ^ 0x15 for byte in whole[2:200]) + whole[200:]
        case "graph":
            return b"\n\x1a\n\x05image\x12\x0bPlaceholder"
    raise AssertionError(kind)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["empty", "truncated", "one byte short", "web page", "text", "garbled", "graph"])
def test_a_damaged_file(refused, cli, tmp_path, zipped, kind):
    source = tmp_path / "theirs.pth"
    torch.save({"base_net.0.0.weight": torch.ones(1000)}, source, _use_new_zipfile_serialization=zipped)
    source.write_bytes(damage(source.read_bytes(), kind))
    sentence = refused(source)
    assert f"{source} cannot be read: it is damaged, or was not written by torch.save;" in sentence
    outcome = cli("export-checkpoint", source, "--output", tmp_path / "back.pth")
    assert f"{source} cannot be read as a checkpoint" in one_sentence(outcome, tmp_path / "back.pth")


def test_no_file_and_a_folder(refused, tmp_path):
    assert refused(tmp_path / "none.pth") == f"error: there is no file {tmp_path / 'none.pth'}."
    assert refused(tmp_path / "none.pb") == f"error: there is no file {tmp_path / 'none.pb'}."
    assert refused(tmp_path) == f"error: {tmp_path} is a folder; name a file."


def test_class_names_that_do_not_fit(refused, write, states, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\newe\n")
    sentence = refused(write(PROGRAMS["lufficc"].wrap(states["lufficc"])), "--class-names", names, code=2)
    assert sentence == f"error: {names} names 3 classes, but the network has 2."


def our_checkpoint(path, dialect, size=(96, 96), width=1.0, head="ssdlite", loss=None):
    model = {"dialect": dialect, "input_size": list(size), "width": width, "weights": "none", "head": head}
    config = config_from_dict({"model": model, "loss": loss})
    weights = empty_detector(config, ["person"]).state_dict()
    save_checkpoint(path, {"config": config.to_dict(), "classes": ["person"], "metrics": {}, "weights": weights})
    return path


def test_a_checkpoint_of_our_own(refused, tmp_path):
    source = our_checkpoint(tmp_path / "best.pt", "paper", width=0.25)
    assert refused(source) == f"error: {source} is a checkpoint of ssdlite already; use it as it is."


@pytest.mark.parametrize("dialect", ["paper", "tensorflow"])
def test_export_of_a_dialect_without_pth(cli, tmp_path, dialect):
    source = our_checkpoint(tmp_path / "best.pt", dialect, width=0.25)
    outcome = cli("export-checkpoint", source, "--output", tmp_path / "theirs.pth")
    sentence = one_sentence(outcome, tmp_path / "theirs.pth")
    assert outcome.code == 2
    assert f"{source} is of the dialect {dialect}" in sentence and "pytorch-ssd, lufficc, mmdetection" in sentence


def test_export_of_another_width(cli, tmp_path):
    source = our_checkpoint(tmp_path / "best.pt", "lufficc", width=0.5)
    outcome = cli("export-checkpoint", source, "--output", tmp_path / "theirs.pth")
    sentence = one_sentence(outcome, tmp_path / "theirs.pth")
    assert (outcome.code, sentence) == (2, f"error: {source} is of width 0.5, but lufficc reads width 1 only.")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"head": "corner"}, "has a corner head, which lufficc does not know."),
        ({"loss": "focal"}, "learnt scores by sigmoid, but lufficc makes them by softmax."),
    ],
)
def test_export_of_what_the_other_program_would_misread(cli, tmp_path, options, sentence):
    source = our_checkpoint(tmp_path / "best.pt", "lufficc", **options)
    outcome = cli("export-checkpoint", source, "--output", tmp_path / "theirs.pth")
    assert (outcome.code, one_sentence(outcome, tmp_path / "theirs.pth")) == (2, f"error: {source} {sentence}")


def test_export_of_another_size_is_said(cli, tmp_path):
    source = our_checkpoint(tmp_path / "best.pt", "pytorch-ssd", size=(64, 96))
    outcome = cli("export-checkpoint", source, "--output", tmp_path / "theirs.pth")
    assert outcome.code == 0
    said = " ".join(outcome.out.split())
    assert "warning: the file does not say that its input is 96x64; pytorch-ssd takes it for 300x300." in said


def test_export_of_something_else(cli, write, states, tmp_path):
    source = write(states["pytorch-ssd"])
    outcome = cli("export-checkpoint", source, "--output", tmp_path / "again.pth")
    assert outcome.code == 1
    assert "is not a checkpoint of ssdlite" in one_sentence(outcome, tmp_path / "again.pth")


def test_the_old_output_survives(cli, write, tmp_path):
    output = our_checkpoint(tmp_path / "ours.pt", "paper", width=0.25)
    assert cli("import-checkpoint", write({"a": torch.zeros(1)}), "--output", output).code == 1
    assert load_detector(output).class_names == ("person",)
