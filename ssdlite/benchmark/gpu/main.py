"""The parts of `scripts/gpu.py`, and its command line."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from ssdlite.benchmark.gpu import checks
from ssdlite.benchmark.gpu import speed as speeds
from ssdlite.benchmark.gpu.report import GpuReport, describe
from ssdlite.benchmark.gpu.tasks import DRY, FULL, MakeTasks, Setting, Sizes, Task, run_tasks
from ssdlite.training.step import CompileMode

ROOT = Path(__file__).parents[3]


MINUTES = 9.5  # of each part


def correctness(setting: Setting) -> list[Task]:
    """Return the checks that the GPU computes what the CPU does."""
    return [
        Task("assigners", checks.check_assigners, 60, is_check=True),
        Task("recipes", checks.check_recipes, 90, is_check=True),
        Task("matching", checks.check_matching, 60, is_check=True),
        Task("corner loss", checks.check_corner_loss, 60, is_check=True),
        Task("network", checks.check_network, 90, is_check=True),
        Task("decoder", checks.check_decoder, 60, is_check=True),
        Task("device augmentation", checks.check_augmentation, 60, is_check=True),
        Task("steps without waiting", checks.check_steps, 120, is_check=True),
        Task("two processes", checks.check_processes, 120, is_check=True),
        Task("commands: train, interrupt, resume, eval", checks.check_commands, 200, is_check=True),
        Task("commands: corner head, drafts from the disk cache", checks.check_variants, 120, is_check=True),
        Task("tests marked cuda", checks.run_marked_tests, 150, is_check=True),
    ]


def speed(setting: Setting) -> list[Task]:
    """List the tasks, most important first: the rest is left out when time is up."""
    sizes = setting.sizes
    by_importance = sorted(sizes.batches, key=lambda images: images != 192)
    return [
        Task("ceilings", speeds.measure_ceilings, 60),
        Task("depthwise convolutions", speeds.measure_depthwise, 90),
        *(
            Task(
                f"step, batch {images}, compile={mode}",
                partial(speeds.measure_steps, mode=mode, images=images),
                60 if mode == "none" else 150,
                table="training step",
                fresh=True,
            )
            for mode in sizes.modes
            for images in by_importance
        ),
    ]


def loading(setting: Setting) -> list[Task]:
    """Return the measurements of loaders and augmentation."""
    return [
        Task(
            f"{source}, {workers} workers, augment_on={augment_on}",
            partial(speeds.measure_loading, source=source, workers=workers, augment_on=augment_on),
            150,
            table="end to end",
        )
        for augment_on in ("workers", "device")
        for source in ("disk cache", "files")
        for workers in reversed(setting.sizes.workers)
    ]


def evaluation(setting: Setting) -> list[Task]:
    """Return the measurements of decoding and validation."""
    return [
        Task("network and decoding", speeds.measure_parts, 90, table="evaluation"),
        Task(
            "validation",
            partial(speeds.measure_validation, workers=setting.sizes.workers[0]),
            240,
            table="evaluation",
        ),
        Task("AP", speeds.measure_scoring, 180, table="evaluation"),
    ]


PARTS: dict[str, MakeTasks] = {
    "correctness": correctness,
    "speed": speed,
    "end-to-end": loading,
    "evaluation": evaluation,
}


def main(arguments: Sequence[str] | None = None, *, sizes: Sizes | None = None, isolated: bool = True) -> int:
    """Run the parts, say what came of each task, and write both files -> 0, or 1 where something failed.

    `sizes` and `isolated` are for tests.
    """
    options = _parse(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print(
            "PyTorch sees no CUDA GPU here; --dry-run runs everything at small sizes on the CPU.", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="ssdlite-gpu-", ignore_cleanup_errors=True) as scratch:
        setting = Setting(
            device_name="cpu" if options.dry_run else "cuda",
            dry_run=options.dry_run,
            scratch=Path(scratch),
            sizes=sizes or (DRY if options.dry_run else FULL),
            compile_mode=options.compile,
        )
        report = GpuReport(options.output, describe(setting, ROOT))
        chosen = list(PARTS) if options.part == "all" else [options.part]
        for part in chosen:
            _run_part(part, setting, report, options.only, 60 * options.minutes, isolated)
    for row in report.document["targets"] if not options.dry_run else []:
        print(f"{row['aim']}: {row['reached']:.4g} of {row['wanted']:.4g} at {row['at']}. {row['in the way']}")
    bad = report.bad(chosen)
    print(f"Wrote {report.json_path} and {report.table_path}.")
    print(f"{len(bad)} failed: {', '.join(each['task'] for each in bad)}." if bad else "Everything passed.")
    return 1 if bad else 0


def _run_part(
    part: str, setting: Setting, report: GpuReport, only: Sequence[str], budget: float, isolated: bool
) -> None:
    every = [task.name for task in PARTS[part](setting)]
    names = [name for name in every if not only or any(word in name for word in only)]
    if not names:
        return
    print(f"{part}:")
    report.begin(part, keep=len(names) < len(every))
    start = time.monotonic()
    for result in run_tasks(PARTS[part], setting, names, budget=budget, isolated=isolated):
        report.add(part, result)
        print(f"  {result.status:13} {result.seconds:6.1f} s  {result.task.name}", flush=True)
        for problem in result.problems[:5]:
            print(f"      {problem}", flush=True)
    print(f"  {time.monotonic() - start:.0f} s")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu.py", description="Check and measure the GPU path; see docs/gpu.md.")
    parser.add_argument("--part", choices=["all", *PARTS], default="all")
    parser.add_argument("--dry-run", action="store_true", help="everything at small sizes on the CPU")
    parser.add_argument("--only", default="", help="tasks whose names contain one of these words, between commas")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of each part at most")
    parser.add_argument(
        "--compile", choices=get_args(CompileMode), default="none", help="torch.compile's mode from end to end"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu", help="folder of gpu.json and gpu.md")
    options = parser.parse_args(arguments)
    options.only = [word.strip() for word in options.only.split(",") if word.strip()]
    return options
