"""Would a GPU have a kernel for every operator that ssdlite launches? Needs no GPU.

    python scripts/audit_operators.py                     # everything, as on CUDA and on Apple's MPS
    python scripts/audit_operators.py --device cuda step  # what has "step" in its name

Prints a table of operators with their dtypes, how often they are launched, from how many places of ours, and if
there is a kernel; then every fault with its file and line. Ends with 1 where there is any.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from typing import Annotated

import typer
from operator_audit.rules import Fault, audit, look_up
from operator_audit.tables import DEVICES, read_tables
from operator_audit.workloads import workloads


def main(
    words: Annotated[list[str] | None, typer.Argument(help="only workloads with one of these words")] = None,
    device: Annotated[str, typer.Option(help="cuda, mps, or all")] = "all",
    table: Annotated[bool, typer.Option(help="print the table of operators")] = True,
) -> None:
    """Look up every operator that ssdlite launches on a GPU in PyTorch's own tables."""
    faults: dict[Fault, list[str]] = defaultdict(list)
    for each in DEVICES if device == "all" else (device,):
        counts: Counter[tuple[str, str]] = Counter()
        sites = defaultdict(set)
        for name, (work, may_wait) in workloads(each).items():
            if words and not any(word in name for word in words):
                continue
            start = time.perf_counter()
            found = audit(work, each, may_wait)
            print(f"{each}, {name}: {len(found.launches)} operators, {time.perf_counter() - start:.1f} s")
            for fault in found.faults:
                faults[fault].append(f"{each}, {name}")
            for launch in found.launches:
                kind, _ = look_up(launch, each, read_tables())
                row = str(launch), kind or "yes"
                counts[row] += 1
                sites[row].add(launch.site)
        if table:
            print(f"\n{'operator on ' + each:60} {'launches':>8} {'places':>7}  kernel")
            for (operator, answer), count in sorted(counts.items()):
                print(f"{operator:60} {count:8} {len(sites[operator, answer]):7}  {answer}")
            print()
    for fault, names in sorted(faults.items(), key=lambda item: str(item[0])):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"{fault.kind}: {fault}\n    in {names[0]}{more}")
    print(f"{len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    typer.run(main)
