"""Run all tests under each of several settings, and print a table of what passed: `make test-matrix`.

The settings are what another machine would choose: the instructions of its processor, the precision that
`train.precision=auto` takes, the number of threads, and the order of tests. Six runs have each pair of settings.

The instructions are lowered for PyTorch's own kernels, for oneDNN and for MKL together, as on a processor that
lacks them: AVX2 is what most processors have, SSE4 those from before 2013. What ONNX Runtime, OpenCV and NumPy
choose stays as it is, and so does what only another maker's processor would show.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

INSTRUCTIONS = {
    "all": {},
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "SSE4": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "DNNL_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}


class Setting(NamedTuple):
    """One run."""

    instructions: str
    precision: str
    threads: int
    seed: int | None  # of the order; None is that of the files

    @property
    def environment(self) -> dict[str, str]:
        """The variables that `tests/conftest.py` and the libraries read, and no others of their kind."""
        known = {name for variables in INSTRUCTIONS.values() for name in variables}
        known |= {"SSDLITE_TEST_SEED"}
        kept = {name: value for name, value in os.environ.items() if name not in known}
        order = {} if self.seed is None else {"SSDLITE_TEST_SEED": str(self.seed)}
        chosen = {"SSDLITE_TEST_PRECISION": self.precision, "SSDLITE_TEST_THREADS": str(self.threads)}
        chosen["OMP_WAIT_POLICY"] = "passive"  # threads that spin while they wait take the other jobs' cores
        return {**kept, **INSTRUCTIONS[self.instructions], **chosen, **order}


MATRIX = (
    Setting("all", "bf16", 1, None),
    Setting("all", "fp32", 2, 1),
    Setting("AVX2", "bf16", 1, 2),
    Setting("AVX2", "fp32", 2, None),
    Setting("SSE4", "bf16", 2, None),
    Setting("SSE4", "fp32", 1, 3),
)


class Result(NamedTuple):
    """Result of one run of the tests."""

    passed: int
    failed: int  # with errors
    skipped: int
    seconds: float
    tests: list[str]  # that failed

    @property
    def is_green(self) -> bool:
        """True if something ran and nothing failed: a pytest that dies says nothing."""
        return not self.failed and self.passed > 0


def read_result(output: str, return_code: int, seconds: float) -> Result:
    """The counts in pytest's last line; a run that ends badly without naming a failure counts as one."""
    counts = {
        word.rstrip("s"): int(number)
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", output)
    }
    tests = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    failed = counts.get("failed", 0) + counts.get("error", 0)
    if return_code and not failed:
        failed = 1
    return Result(counts.get("passed", 0), failed, counts.get("skipped", 0), seconds, tests)


def run(setting: Setting, arguments: list[str], log_path: Path) -> Result:
    """Run all tests under `setting`; pytest's output goes to `log_path`."""
    started = time.monotonic()
    with log_path.open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "pytest", *arguments]
        code = subprocess.run(command, env=setting.environment, stdout=log, stderr=subprocess.STDOUT).returncode
    return read_result(log_path.read_text(encoding="utf-8", errors="replace"), code, time.monotonic() - started)


def table(results: dict[Setting, Result]) -> str:
    """Markdown."""
    lines = [
        "| instructions | precision | threads | order | passed | failed | skipped | seconds |",
        "|" + "---|" * 8,
    ]
    for setting, result in results.items():
        order = "of the files" if setting.seed is None else f"random ({setting.seed})"
        words = [setting.instructions, setting.precision, setting.threads, order]
        words += [result.passed, result.failed, result.skipped, round(result.seconds)]
        lines.append("| " + " | ".join(map(str, words)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Exit code 1 where a run is not green."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Further arguments go to pytest.")
    parser.add_argument("--runs", default="", help="numbers of the matrix with commas, from 1; default: all")
    parser.add_argument("--logs", type=Path, default=Path("runs/test-matrix"), help="folder for what pytest prints")
    options, arguments = parser.parse_known_args()
    numbers = [int(text) for text in options.runs.split(",")] if options.runs else range(1, len(MATRIX) + 1)
    options.logs.mkdir(parents=True, exist_ok=True)
    results: dict[Setting, Result] = {}
    for number in numbers:
        setting = MATRIX[number - 1]
        print(f"{number}: {setting}", flush=True)
        result = results[setting] = run(setting, arguments, options.logs / f"{number}.log")
        for test in result.tests:
            print(f"   failed: {test}", flush=True)
        row = {**setting._asdict(), **result._asdict()}
        with (options.logs / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print(table(results))
    return 0 if all(result.is_green for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
