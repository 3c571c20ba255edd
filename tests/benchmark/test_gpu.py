"""`scripts/gpu.py`: a dry run of each part ends, what is wrong is found, and what crashes or hangs is recorded."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.gpu import NEEDED, missing_packages
from ssdlite.benchmark.gpu import checks, speed
from ssdlite.benchmark.gpu.checks import broken_rule
from ssdlite.benchmark.gpu.main import PARTS, main
from ssdlite.benchmark.gpu.report import targets, to_markdown
from ssdlite.benchmark.gpu.tasks import DRY, Outcome, Setting, Task, TaskResults, loses_device, run_tasks
from ssdlite.losses import matching
from ssdlite.models.decode import Decoder

TINY = DRY._replace(
    side=64,
    images=4,
    objects=4,
    matchings=5,
    batches=(2,),
    most_objects=(3,),
    steps=1,
    photos=4,
    validated=4,
    scored=4,
)
QUICK_CHECKS = "assigners,recipes,matching,corner loss,network,decoder,device augmentation"


def dry(folder: Path, part: str, only: str = "", minutes: float = 9.5, isolated: bool = False) -> tuple[int, dict]:
    """Exit code and what was written."""
    options = ["--dry-run", "--part", part, "--output", str(folder), "--minutes", str(minutes)]
    code = main([*options, "--only", only] if only else options, sizes=TINY, isolated=isolated)
    return code, json.loads((folder / "gpu.json").read_text())


def statuses(document: dict, part: str) -> dict[str, str]:
    return {each["task"]: each["status"] for each in document["parts"][part]["results"]}


def test_checks_pass_and_their_numbers_are_kept(tmp_path: Path) -> None:
    code, document = dry(tmp_path, "correctness", QUICK_CHECKS)
    assert code == 0 and document["passed"]
    assert statuses(document, "correctness") == dict.fromkeys(QUICK_CHECKS.split(","), "passed")
    rows = document["parts"]["correctness"]["results"][1]["rows"]
    assert len(rows) == 4 * sum(4 for _ in checks.RECIPES)  # two terms and two gradients of each pair
    assert all(row["largest difference"] == 0 for row in rows)  # the CPU against itself
    assert "| recipes | passed |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize("part", ["speed", "end-to-end", "evaluation"])
def test_measurements_run_to_their_end(tmp_path: Path, part: str) -> None:
    code, document = dry(tmp_path, part, only="ceilings,depthwise,step" if part == "speed" else "")
    assert code == 0
    assert set(statuses(document, part).values()) == {"measured"}
    rows = [row for each in document["parts"][part]["results"] for row in each["rows"]]
    assert all(row["images/s"] > 0 for row in rows if "images/s" in row)
    if part == "speed":
        timed = [row for row in rows if "kernels" in row]
        assert len(timed) == 1 and timed[0]["kernels"][0]["share"] > 0
    if part == "end-to-end":
        kinds = {(row["source"], row["augment_on"], row["workers"]) for row in rows}
        assert len(kinds) == 8


@pytest.mark.skipif(not os.environ.get("SSDLITE_SOAK"), reason="starts ten processes; make soak")
def test_commands_and_processes_in_a_process_of_its_own(tmp_path: Path) -> None:
    code, document = dry(tmp_path, "correctness", "commands,two processes", isolated=True)
    assert code == 0
    assert set(statuses(document, "correctness").values()) == {"passed"}
    interrupted = document["parts"]["correctness"]["results"][1]["rows"][0]
    assert 0 < interrupted["step"] < interrupted["of"] == 3 * TINY.epochs


def test_a_decoder_that_shifts_boxes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Decoder.__call__

    def shifted(self, output, sizes):  # type: ignore[no-untyped-def]
        return [found._replace(boxes=found.boxes + np.float32(2)) for found in decode(self, output, sizes)]

    monkeypatch.setattr(Decoder, "__call__", shifted)
    code, document = dry(tmp_path, "correctness", "decoder")
    assert code == 1 and not document["passed"]
    assert statuses(document, "correctness") == {"decoder": "failed"}
    assert "known boxes: place: off by" in document["parts"]["correctness"]["results"][0]["problems"][0]
    assert "**Not passed**" in (tmp_path / "gpu.md").read_text()


def test_a_matching_that_is_not_greedy_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the second call, which is the one that stands for the device's with ties."""
    match, calls = matching.match_greedily, []

    def second_best(overlaps):  # type: ignore[no-untyped-def]
        calls.append(overlaps)
        return match(overlaps) if len(calls) < 3 else match(overlaps.roll(1, dims=1))

    monkeypatch.setattr(checks, "match_greedily", second_best)
    code, document = dry(tmp_path, "correctness", "matching")
    assert code == 1
    assert "batches with ties: greedy" in document["parts"]["correctness"]["results"][0]["problems"][0]


def test_the_rule_of_greedy_matching_by_hand() -> None:
    """Object 0 has its pick of two equal priors; object 1 takes what is left."""
    overlaps = np.array([[0.5, 0.5, 0.0], [0.25, 0.0, 0.0]])
    assert broken_rule(overlaps, np.array([1, 0])) == ""
    assert broken_rule(overlaps, np.array([0, -1])) == ""  # its prior is taken, and it has no other
    assert "object 0" in broken_rule(overlaps, np.array([2, 0]))
    assert "left" in broken_rule(overlaps, np.array([1, -1]))
    equal = np.array([[0.5, 0.0], [0.5, 0.2]])
    assert broken_rule(equal, np.array([0, 1])) == ""
    assert broken_rule(equal, np.array([-1, 0])) != ""  # the first object comes first


def test_comparisons_see_what_differs() -> None:
    findings = TaskResults()
    findings.close("same", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
    findings.close("near", torch.tensor([1.0, 2.0001]), torch.tensor([1.0, 2.0]))
    assert not findings.problems
    for name, value in (("far", 2.01), ("nothing", float("nan")), ("infinite", float("inf"))):
        findings.close(name, torch.tensor([1.0, value]), torch.tensor([1.0, 2.0]))
    findings.close("shape", torch.zeros(2), torch.zeros(3))
    findings.equal("labels", torch.tensor([1, 2]), torch.tensor([1, 3]))
    findings.close("one of a hundred", torch.arange(100.0).clamp(max=98), torch.arange(100.0), share=0.01)
    with findings.case("raises"):
        raise ValueError("by itself")
    names = ["far", "nothing", "infinite", "shape", "labels", "raises"]
    assert [problem.split(":")[0] for problem in findings.problems] == names


def broken_tasks(setting: Setting) -> list[Task]:
    """Of everything that may go wrong."""
    return [
        Task("raises", raises, 60, is_check=True),
        Task("no memory", no_memory, 60),
        Task("dies", dies, 60, is_check=True),
        Task("hangs", hangs, 1, is_check=True),
        Task("loses the device", loses_it, 60, is_check=True),
        Task("nothing to do", nothing, 60, is_check=True),
        Task("works", works, 60),
    ]


def raises(setting: Setting) -> Outcome:
    raise ValueError("as it should")


def no_memory(setting: Setting) -> Outcome:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")


def dies(setting: Setting) -> Outcome:
    os.kill(os.getpid(), signal.SIGSEGV)
    return Outcome([])


def hangs(setting: Setting) -> Outcome:
    time.sleep(600)
    return Outcome([])


def loses_it(setting: Setting) -> Outcome:
    raise RuntimeError("CUDA error: device-side assert triggered")


def nothing(setting: Setting) -> Outcome:
    return Outcome([], not_run="no pytest")


def works(setting: Setting) -> Outcome:
    return Outcome([{"process": os.getpid()}])


def test_what_crashes_or_hangs_does_not_keep_the_rest_from_running(tmp_path: Path) -> None:
    setting = Setting("cpu", True, tmp_path, TINY)
    names = [task.name for task in broken_tasks(setting)]
    found = {each.task.name: each for each in run_tasks(broken_tasks, setting, names, budget=300)}
    assert [each.status for each in found.values()] == [
        *("crashed", "out of memory", "crashed", "timed out", "crashed", "not run", "measured")
    ]
    assert "as it should" in found["raises"].problems[0] and "exit code -11" in found["dies"].problems[0]
    assert found["works"].rows[0]["process"] != os.getpid()


def test_when_time_is_up_checks_count_as_not_passed(tmp_path: Path) -> None:
    code, document = dry(tmp_path, "correctness", "matching", minutes=0.01)
    assert code == 1 and statuses(document, "correctness") == {"matching": "not run"}


def test_parts_of_one_commit_are_kept_together(tmp_path: Path) -> None:
    dry(tmp_path, "correctness", "matching")
    _, document = dry(tmp_path, "correctness", "corner loss")
    assert statuses(document, "correctness") == {"matching": "passed", "corner loss": "passed"}
    _, document = dry(tmp_path, "evaluation", "AP")
    assert set(document["parts"]) == {"correctness", "evaluation"}
    (tmp_path / "gpu.json").write_text(json.dumps(document | {"commit": "another"}))
    _, document = dry(tmp_path, "evaluation", "AP")
    assert set(document["parts"]) == {"evaluation"}


def test_targets_name_what_is_in_the_way() -> None:
    kernels = [{"kernel": "conv_depthwise2d_backward", "ms a step": 30.0, "share": 0.5, "calls a step": 17}]
    step = {"batch": 192, "objects": 16, "compile": "none", "host ms": 20.0, "device ms": 60.0, "kernels": kernels}
    load = {"source": "disk cache", "workers": 8, "augment_on": "device", "share": 0.95, "waiting": 0.01}
    parts = {
        "speed": {"results": [{"table": "training step", "rows": [step | {"images/s": 3200.0}]}]},
        "end-to-end": {"results": [{"table": "end to end", "rows": [load]}]},
    }
    rate, share = targets(parts)
    assert (
        not rate["met"]
        and "host 20.0 ms, device 60.0 ms; conv_depthwise2d_backward 30.00 ms (50%)" in rate["in the way"]
    )
    assert share["met"] and share["in the way"] == ""
    parts["speed"]["results"][0]["rows"][0]["images/s"] = 5100.0
    assert targets(parts)[0]["met"]


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert "--dry-run" in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_packages() == []
    monkeypatch.setattr("scripts.gpu.NEEDED", (*NEEDED, "no_such_module", "no_such.package"))
    assert missing_packages() == ["no_such_module", "no_such.package"]


def test_errors_that_end_a_process_are_known() -> None:
    assert loses_device(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not loses_device(RuntimeError("called a synchronizing CUDA operation"))


def test_profiles_and_waiting_on_a_cpu() -> None:
    with checks.waiting_is_an_error(torch.device("cpu")):
        torch.ones(1).item()
    readings: list[int] = []
    assert speed.host_seconds(lambda: readings.append(1), lambda: None) >= 0
    assert len(readings) == speed.HOST_READINGS


def test_every_part_has_tasks_of_different_names(tmp_path: Path) -> None:
    for make in PARTS.values():
        for sizes in (DRY, DRY._replace(modes=("none", "default", "reduce-overhead"))):
            names = [task.name for task in make(Setting("cpu", True, tmp_path, sizes))]
            assert names and len(names) == len(set(names))


def test_an_empty_report_is_readable() -> None:
    machine = {"gpu": None, "processor": "P", "cores": 2, "memory_GB": 1.0, "versions": {"python": "3.12"}}
    facts = {"dry_run": True, "commit": "unknown", "changed_files": [], "machine": machine}
    assert "nothing was run" in to_markdown(facts | {"passed": True, "targets": [], "parts": {}})
