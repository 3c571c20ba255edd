"""The table of runs: that all pairs are in it, and that a red run is not taken for a green one."""

import itertools

import pytest

from scripts.run_test_matrix import MATRIX, Result, Setting, read_result, run, table


def test_six_runs_have_every_pair_of_two_settings():
    rows = [(*setting[:3], setting.seed is not None) for setting in MATRIX]
    columns = list(zip(*rows, strict=True))
    assert [set(column) for column in columns] == [{"all", "AVX2", "SSE4"}, {"bf16", "fp32"}, {1, 2}, {False, True}]
    for one, other in itertools.combinations(columns, 2):
        assert set(zip(one, other, strict=True)) == set(itertools.product(set(one), set(other)))


@pytest.mark.parametrize(
    ("output", "code", "expected"),
    [
        ("10 passed, 2 skipped in 3.00s\n", 0, Result(10, 0, 2, 5.0, [])),
        (
            "FAILED tests/a.py::test_x[1] - assert 0\nERROR tests/b.py::test_y\n1 failed, 9 passed, 1 error in 3s",
            1,
            Result(9, 2, 0, 5.0, ["tests/a.py::test_x[1]", "tests/b.py::test_y"]),
        ),
        ("Segmentation fault\n", 139, Result(0, 1, 0, 5.0, [])),
        ("no tests ran in 0.01s\n", 5, Result(0, 1, 0, 5.0, [])),
    ],
)
def test_what_pytest_says_is_counted(output, code, expected):
    result = read_result(output, code, 5.0)
    assert result == expected and result.is_green == (code == 0)


def test_a_run_has_its_variables_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    monkeypatch.setenv("SSDLITE_TEST_SEED", "9")
    plain = Setting("all", "fp32", 2, None).environment
    assert "ATEN_CPU_CAPABILITY" not in plain and "SSDLITE_TEST_SEED" not in plain
    assert (plain["SSDLITE_TEST_PRECISION"], plain["SSDLITE_TEST_THREADS"]) == ("fp32", "2")
    low = Setting("SSE4", "bf16", 1, 3).environment
    assert (low["ATEN_CPU_CAPABILITY"], low["ONEDNN_MAX_CPU_ISA"], low["SSDLITE_TEST_SEED"]) == (
        "default",
        "SSE41",
        "3",
    )
    assert low["PATH"] == plain["PATH"]


def test_a_run_and_its_row(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import os\ndef test_it(): assert os.environ['SSDLITE_TEST_THREADS'] == '1'\ndef test_red(): assert 0\n"
    )
    setting = Setting("AVX2", "fp32", 1, 7)
    result = run(setting, [str(tmp_path), "-q", "-c", "/dev/null", "--rootdir", str(tmp_path)], tmp_path / "log")
    assert (result.passed, result.failed) == (1, 1) and not result.is_green
    assert len(result.tests) == 1 and result.tests[0].endswith("test_it.py::test_red")
    assert "| AVX2 | fp32 | 1 | random (7) | 1 | 1 | 0 |" in table({setting: result})
