import sys

import pytest

from ssdlite.errors import UserError
from ssdlite.export.formats.base import load_package, versions_of


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(UserError) as error:
        load_package("no_such_runtime.part", "ncnn")
    assert str(error.value) == "no_such_runtime is not installed; run: pip install 'ssdlite[ncnn]'"


def test_a_broken_package_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import what_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"half_installed is installed but cannot be imported \(No module named 'what"
    ):
        load_package("half_installed", "ncnn")
    assert "half_installed" not in sys.modules


def test_what_is_there_is_imported():
    assert load_package("json.decoder", "ncnn").JSONDecoder


def test_versions_are_of_what_is_installed():
    assert list(versions_of("numpy", "no-such-package")) == ["numpy"]
