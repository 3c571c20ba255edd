"""The results as one JSON document, and as tables of Markdown."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ssdlite.benchmark.gpu.tasks import Result, Row, Setting
from ssdlite.io import write_text
from ssdlite.machine import describe_machine
from ssdlite.training.optim import AUTOCAST_DTYPE, choose_precision

BAD = ("failed", "crashed", "timed out")


IMAGES_PER_SECOND, CACHE_SHARE = 5000.0, 0.9  # aimed at on an H200: from resident data; of it from the disk cache


KERNELS_SHOWN = 10


NVIDIA_SMI = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.memory", "power.limit")


def describe(setting: Setting, root: Path) -> dict[str, Any]:
    """Return what the figures depend on: machine, driver, versions and the state of the code."""
    device = setting.device
    machine = describe_machine(device, AUTOCAST_DTYPE[choose_precision(device)])
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine["gpu_memory_GiB"] = round(properties.total_memory / 2**30, 1)
        machine["compute_capability"] = f"{properties.major}.{properties.minor}"
        machine["nvidia_smi"] = _nvidia_smi()
    return {"dry_run": setting.dry_run, "machine": machine, **_code(root)}


def _nvidia_smi() -> dict[str, str]:
    query = ["nvidia-smi", f"--query-gpu={','.join(NVIDIA_SMI)}", "--format=csv,noheader", "--id=0"]
    return dict(zip(NVIDIA_SMI, _said(query).split(", "), strict=False))


def _code(root: Path) -> dict[str, Any]:
    """The commit, and whether files differ from it; "unknown" in a copy without git's folder."""
    commit = _said(["git", "-C", str(root), "rev-parse", "HEAD"])
    changed = _said(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return {"commit": commit or "unknown", "changed_files": changed.splitlines() if commit else []}


def _said(command: Sequence[str]) -> str:
    """Return what a program prints, or "" if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


class GpuReport:
    """Keeps what is known so far in FOLDER/gpu.json and FOLDER/gpu.md, so that a run that is ended leaves it.

    Parts that were run before on the same machine and commit stay, so that one at a time can be run.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.json_path, self.table_path = folder / "gpu.json", folder / "gpu.md"
        folder.mkdir(parents=True, exist_ok=True)
        before = self._before(facts)
        self.parts: dict[str, dict[str, Any]] = before["parts"] if before else {}
        self.facts = dict(facts)

    def _before(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            before = json.loads(self.json_path.read_text(encoding="utf-8"))
            same = before["commit"] == facts["commit"] and before["dry_run"] == facts["dry_run"]
            machine = before["machine"]["gpu"] == facts["machine"]["gpu"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return before if same and machine else None

    def begin(self, part: str, *, keep: bool) -> None:
        """Start `part` anew; with `keep` the tasks that are not run again stay."""
        results = self.parts.get(part, {}).get("results", []) if keep else []
        self.parts[part] = {"begun": time.strftime("%Y-%m-%d %H:%M:%S"), "results": results}
        self._write()

    def add(self, part: str, result: Result) -> None:
        entry = {
            "task": result.task.name,
            "kind": "check" if result.task.is_check else "measurement",
            "table": result.task.table or result.task.name,
            "status": result.status,
            "seconds": round(result.seconds, 1),
            "rows": result.rows,
            "problems": result.problems,
        }
        results = self.parts[part]["results"]
        results[:] = [each for each in results if each["task"] != result.task.name] + [entry]
        self._write()

    @property
    def document(self) -> dict[str, Any]:
        return {
            **self.facts,
            "passed": not self.bad(),
            "targets": targets(self.parts),
            "parts": self.parts,
        }

    def bad(self, parts: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Whatever failed, crashed or hung, and checks that were not run for lack of time."""
        chosen = self.parts.values() if parts is None else [self.parts[part] for part in parts]
        return [
            each
            for part in chosen
            for each in part["results"]
            if each["status"] in BAD or (each["status"] == "not run" and each["problems"][0].startswith("the time"))
        ]

    def _write(self) -> None:
        document = self.document
        write_text(self.json_path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        write_text(self.table_path, to_markdown(document))


def targets(parts: Mapping[str, Any]) -> list[Row]:
    """Report the targets for an H200, what was reached, and what stands in the way."""
    steps = [row for row in _rows(parts, "speed", "training step") if row.get("images/s")]
    cached = [row for row in _rows(parts, "end-to-end", "end to end") if row["source"] == "disk cache"]
    found: list[Row] = []
    if steps:
        best = max(steps, key=lambda row: row["images/s"])
        reached = best["images/s"] >= IMAGES_PER_SECOND
        where = f"batch {best['batch']}, {best['objects']} objects, compile={best['compile']}"
        row = {"aim": "images/s, resident data", "wanted": IMAGES_PER_SECOND, "reached": best["images/s"]}
        found.append(row | {"met": reached, "at": where, "in the way": "" if reached else _in_the_way(best)})
    if cached:
        best = max(cached, key=lambda row: row["share"])
        reached = best["share"] >= CACHE_SHARE
        where = f"{best['workers']} workers, augment_on={best['augment_on']}"
        row = {"aim": "share of it, from the disk cache", "wanted": CACHE_SHARE, "reached": best["share"]}
        way = "" if reached else f"{best['waiting']:.0%} of the time there was no batch"
        found.append(row | {"met": reached, "at": where, "in the way": way})
    return found


def _in_the_way(row: Row) -> str:
    """The kernels that take most of a step, or the host where it takes longer than the device."""
    kernels = "; ".join(
        f"{each['kernel'][:60]} {each['ms a step']:.2f} ms ({each['share']:.0%})" for each in row["kernels"][:5]
    )
    device = row.get("device ms")
    host = f"host {row['host ms']:.1f} ms, device {device:.1f} ms; " if device else ""
    return host + kernels


def _rows(parts: Mapping[str, Any], part: str, table: str) -> list[Row]:
    results = parts.get(part, {}).get("results", [])
    return [row for each in results if each["table"] == table for row in each["rows"]]


def to_markdown(document: Mapping[str, Any]) -> str:
    """Everything that a person wants to see; the JSON has all of it."""
    machine = document["machine"]
    changed = f", {len(document['changed_files'])} files changed" if document["changed_files"] else ""
    lines = [
        f"# {'Dry run' if document['dry_run'] else 'GPU'}: {machine['gpu'] or machine['processor']}",
        "",
        f"Commit {document['commit'][:12]}{changed}; {machine['cores']} cores, {machine['memory_GB']} GB.",
        f"{', '.join(f'{name} {value}' for name, value in (machine.get('nvidia_smi') or {}).items())}",
        ", ".join(f"{name} {value}" for name, value in machine["versions"].items()),
        "",
        _verdict(document),
        "",
    ]
    if document["dry_run"]:
        lines += ["Sizes are tiny and the device is the CPU: no figure below means anything.", ""]
    if document["targets"]:
        lines += ["## Aims on an H200", "", *_table(document["targets"]), ""]
    for name, part in document["parts"].items():
        lines += [f"## {name}", "", *_part(part["results"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _verdict(document: Mapping[str, Any]) -> str:
    every = [each for part in document["parts"].values() for each in part["results"]]
    counts: dict[str, int] = {}
    for each in every:
        counts[each["status"]] = counts.get(each["status"], 0) + 1
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"**{'Passed' if document['passed'] else 'Not passed'}**: {said or 'nothing was run'}."


def _part(results: Sequence[Mapping[str, Any]]) -> list[str]:
    overview = [
        {
            "task": each["task"],
            "result": each["status"],
            "seconds": each["seconds"],
            "cases": len(each["rows"]),
            "problems": " / ".join(each["problems"][:3]),
        }
        for each in results
    ]
    lines = _table(overview)
    tables: dict[str, list[Row]] = {}
    for each in results:
        if each["kind"] == "measurement" and each["rows"]:
            tables.setdefault(each["table"], []).extend(each["rows"])
    for name, rows in tables.items():
        lines += ["", f"### {name}", "", *_table(rows)]
        lines += _kernels(rows)
    return lines


def _kernels(rows: Sequence[Row]) -> list[str]:
    """Top kernels of the fastest row and of the fastest that is not compiled."""
    timed = [row for row in rows if row.get("kernels")]
    eager = [row for row in timed if row["compile"] == "none"]
    lines: list[str] = []
    chosen = [max(group, key=lambda row: row["images/s"]) for group in (timed, eager) if group]
    for row in chosen[:1] if len(chosen) == 2 and chosen[0] is chosen[1] else chosen:
        title = f"Top kernels, batch {row['batch']}, {row['objects']} objects, compile={row['compile']}"
        lines += ["", f"#### {title}", "", *_table(row["kernels"][:KERNELS_SHOWN])]
    return lines


def _table(rows: Sequence[Row]) -> list[str]:
    """Columns in the order in which they first occur; lists are left out."""
    columns = list(
        dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, list))
    )
    if not rows:
        return ["Nothing."]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_shown(row.get(name)) for name in columns)} |" for row in rows]
    return lines


def _shown(value: Any) -> str:
    """Three digits that count, or all of a large number."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
