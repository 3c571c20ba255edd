"""The checks of `scripts/gpu.py` as tests, where there is a GPU."""

from pathlib import Path

import pytest

from ssdlite.benchmark.gpu.main import correctness
from ssdlite.benchmark.gpu.tasks import FULL, Setting, Task

SETTING = Setting("cuda", dry_run=False, scratch=Path(), sizes=FULL)
CHECKS = [task for task in correctness(SETTING) if task.name != "tests marked cuda"]


@pytest.mark.cuda
@pytest.mark.parametrize("check", CHECKS, ids=lambda task: task.name)
def test_the_gpu_does_what_the_cpu_does(check: Task, tmp_path: Path) -> None:
    outcome = check.work(SETTING._replace(scratch=tmp_path))
    assert outcome.rows and not outcome.problems
