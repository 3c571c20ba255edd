from pathlib import Path

import pytest

from ssdlite.export.formats.registry import FORMATS, format_of


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_known_by_the_name_that_it_gets(name):
    assert format_of(Path("runs/x/best" + FORMATS[name].name_suffix)) == FORMATS[name]
    assert format_of(Path("BEST" + FORMATS[name].suffix.upper())) == FORMATS[name]


@pytest.mark.parametrize("path", ["best.pt", "best.onnx", "best.json", "best", "xml", "best.bin"])
def test_other_files_are_of_no_format(path):
    assert format_of(Path(path)) is None
