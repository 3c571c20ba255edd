"""Checkpoints of pytorch-ssd, lufficc and mmdetection: their own answers, and not a bit changed there and back."""

import pytest
import torch

from ssdlite.build.model import load_detector
from ssdlite.models.decode import decode_output

from .conftest import CLASSES, PROGRAMS


@pytest.fixture
def imported(cli, write, program, states, tmp_path):
    """The checkpoint that `import-checkpoint` makes of a program's file, and what it said."""
    source = write(program.wrap(states[program.dialect]))
    outcome = cli("import-checkpoint", source, "--output", tmp_path / "ours.pt")
    assert outcome.code == 0, outcome.err
    return tmp_path / "ours.pt", outcome


def count(shapes):
    """Parameters: what is no statistic."""
    return sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.endswith((".weight", ".bias")))


@pytest.mark.parametrize(
    ("name", "columns", "parameters"),
    [
        ("pytorch-ssd", 21, 3_388_228),
        ("pytorch-ssd", 81, 4_450_228),
        ("mmdetection", 81, 4_228_788),
    ],
)
def test_the_reference_has_the_published_parameters(name, columns, parameters):
    assert count(PROGRAMS[name].shapes(columns)) == parameters


def test_answers_are_those_of_the_other_program(imported, program, states):
    image = torch.randint(0, 256, (3, 40, 40), generator=torch.Generator().manual_seed(1)).float()
    size = program.network.size
    image = torch.nn.functional.interpolate(image[None], (size, size), mode="bilinear").round().byte()
    boxes, scores = program.network(states[program.dialect])(image)
    foreground = [column for column in range(program.columns) if column != program.background % program.columns]

    detector = load_detector(imported[0]).detector
    with torch.no_grad():
        output = detector(image)
    found_boxes, found_scores = decode_output(output, detector.input_size)
    assert scores.std() > 0.02, "the comparison would be of constants"
    torch.testing.assert_close(found_scores[0], scores[:, foreground], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.logits[0].softmax(-1)[:, 0], scores[:, program.background], atol=1e-4, rtol=0)
    torch.testing.assert_close(found_boxes[0], boxes.clamp(-size, 2 * size), atol=1e-3, rtol=0)


def test_names_and_options_come_along(imported, program):
    path, outcome = imported
    loaded = load_detector(path)
    assert loaded.config.model.dialect == program.dialect
    assert loaded.config.model.input_size == (program.network.size,) * 2
    assert loaded.config.eval.iou_threshold == 0.45
    assert f"dialect {program.dialect}" in outcome.out
    if program.dialect == "pytorch-ssd":
        assert loaded.class_names[0] == "aeroplane" and len(loaded.class_names) == 20
        assert "taken for VOC's" in outcome.out
    else:
        assert loaded.class_names == {"lufficc": ("class 1", "class 2"), "mmdetection": CLASSES}[program.dialect]


def test_there_and_back_is_bit_identical(cli, imported, program, states, tmp_path):
    theirs, ours = tmp_path / "back.pth", tmp_path / "again.pt"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(load_detector(imported[0]).class_names))
    assert cli("export-checkpoint", imported[0], "--output", theirs).code == 0
    by_hand = [] if program.dialect == "mmdetection" else ["--class-names", names]
    assert cli("import-checkpoint", theirs, "--output", ours, *by_hand).code == 0

    wrapper = {"lufficc": "model", "mmdetection": "state_dict"}.get(program.dialect)
    content = torch.load(theirs, weights_only=True)
    exported = content[wrapper] if wrapper else content
    assert_same(exported, states[program.dialect])
    first, second = load_detector(imported[0]), load_detector(ours)
    assert_same(second.detector.state_dict(), first.detector.state_dict())
    assert second.class_names == first.class_names


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor) and found[key].dtype == tensor.dtype, key


def test_file_of_data_parallel(cli, write, program, states, tmp_path):
    state = {f"module.{key}": tensor for key, tensor in states[program.dialect].items()}
    assert_same(
        imported_weights(cli, write(program.wrap(state)), tmp_path), plain(cli, write, program, states, tmp_path)
    )


def test_file_of_an_old_pytorch(cli, write, program, states, tmp_path):
    """Before 0.4.1 a norm did not count its batches; ours starts at 0."""
    state = {k: v for k, v in states[program.dialect].items() if not k.endswith("num_batches_tracked")}
    torch.save(program.wrap(state), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    expected = plain(cli, write, program, states, tmp_path)
    for key in expected:
        if key.endswith("num_batches_tracked"):
            expected[key] = torch.tensor(0)
    assert_same(imported_weights(cli, tmp_path / "old.pth", tmp_path), expected)


def plain(cli, write, program, states, tmp_path):
    return imported_weights(cli, write(program.wrap(states[program.dialect]), "plain.pth"), tmp_path)


def imported_weights(cli, source, folder):
    outcome = cli("import-checkpoint", source, "--output", folder / "weights.pt")
    assert outcome.code == 0, outcome.err
    return load_detector(folder / "weights.pt").detector.state_dict()


@pytest.mark.parametrize("meta", [{"CLASSES": CLASSES}, {"dataset_meta": {"classes": list(CLASSES)}}])
def test_class_names_of_either_mmdetection(cli, write, states, tmp_path, meta):
    source = write({"meta": meta, "state_dict": states["mmdetection"]})
    assert cli("import-checkpoint", source, "--output", tmp_path / "ours.pt").code == 0
    assert load_detector(tmp_path / "ours.pt").class_names == CLASSES


def test_class_names_that_do_not_count_right_are_not_believed(cli, write, states, tmp_path):
    source = write({"meta": {"CLASSES": CLASSES[:2]}, "state_dict": states["mmdetection"]})
    outcome = cli("import-checkpoint", source, "--output", tmp_path / "ours.pt")
    assert load_detector(tmp_path / "ours.pt").class_names == ("class 1", "class 2", "class 3", "class 4")
    assert "numbered" in outcome.out
