"""`check-data` as a person types it."""

from __future__ import annotations

import json
import shutil

import pytest


@pytest.fixture
def folder(drawn, tmp_path):
    """A copy of the drawn set that may be damaged."""
    return shutil.copytree(drawn, tmp_path / "my data")


def damage(folder, change):
    path = folder / "annotations/instances_train.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_good_data(cli, folder):
    result = cli("check-data", folder)
    assert result.code == 0, result.err
    assert "32 images with" in result.out and "images/s" in result.out and "0 errors" in result.out


def test_errors_are_counted_written_and_mended(cli, folder, tmp_path):
    def change(document):
        document["images"][0]["width"] += 9
        document["annotations"][1]["category_id"] = 99
        document["annotations"][2]["bbox"][2] = 0

    damage(folder, change)
    before = (folder / "annotations/instances_train.json").read_bytes()
    result = cli(
        "check-data", f"data={folder}", "--json", tmp_path / "found.json", "--fix", tmp_path / "fixed copy"
    )
    assert result.code == 0, result.err
    assert "2 objects left out, 1 size corrected" in result.out
    assert cli("check-data", f"data={folder}").err.startswith("error: 1 error in the data, which training refuses")
    assert "size-mismatch" in result.out and "box-degenerate" in result.out
    assert f"ssdlite train 'data={tmp_path / 'fixed copy'}'" in result.out.replace("train data='", "train 'data=")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"] == 32
    assert found["summary"]["category-unknown"] == {"severity": "error", "count": 1}
    assert [row["kind"] for row in found["findings"]][:3] == ["category-unknown", "size-mismatch", "box-degenerate"]
    assert set(found["findings"][0]) == {"kind", "severity", "file", "item", "text"}
    assert (folder / "annotations/instances_train.json").read_bytes() == before
    assert cli("check-data", tmp_path / "fixed copy").code == 0


def test_a_config_and_its_options(cli, folder, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(f"data:\n  path: '{folder}'\n")
    assert cli("check-data", config).code == 0
    result = cli("check-data", config, "data.class_names=[ring]")
    assert result.code == 1 and "class-unknown" in result.out
    assert cli("check-data", config, "data.class_names=[ring]", "data.ignore_unknown=true").code == 0


def test_at_most_twenty_are_printed(cli, folder):
    def change(document):
        for item in document["annotations"]:
            item["bbox"][2] = 0

    damage(folder, change)
    result = cli("check-data", folder)
    assert result.code == 0  # warnings alone
    assert result.out.count("warning box-degenerate:") == 20 and "more; --json FILE has them all" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no data to look at"),
        (["no-such-folder"], "there is no such folder or config file"),
        (["data.path=x", "stray"], "is not of the form KEY=VALUE"),
    ],
)
def test_usage(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = cli("check-data", *arguments)
    assert result.code == 2 and message in result.err


def test_usage_of_folders(cli, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    result = cli("check-data", tmp_path / "empty")
    assert result.code == 1 and "no data set was recognised" in result.err
    result = cli("check-data", folder, "--fix", folder)
    assert result.code == 2 and "there is something already" in result.err
