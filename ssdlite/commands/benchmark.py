"""`ssdlite benchmark`: how fast this machine is at everything the other verbs do."""

from __future__ import annotations

import difflib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rich.table import Table

from ssdlite.commands.arguments import require_data, require_device_name
from ssdlite.commands.console import console
from ssdlite.config.overrides import is_among, option_names
from ssdlite.config.schema import Config, load_config
from ssdlite.errors import ConfigError
from ssdlite.io import require_writable, write_text

if TYPE_CHECKING:
    from ssdlite.benchmark.timing import Row, Rows
    from ssdlite.benchmark.workload import Workload


Section: TypeAlias = "Callable[[Workload], Rows]"


def _run(module: str, workload: Workload) -> Rows:
    """Run the section of `ssdlite.benchmark.MODULE`, which needs PyTorch and is imported here."""
    return import_module(f"ssdlite.benchmark.{module}").run(workload)


SECTIONS: dict[str, Section] = {
    "loader": partial(_run, "loader"),
    "step": partial(_run, "step"),
    "train": partial(_run, "train"),
    "eval": partial(_run, "eval"),
    "infer": partial(_run, "infer"),
}


DEFAULTS = {"model.input_size": 300, "model.weights": "none", "train.batch_size": 16}
"""Options of a benchmark without a config; 300x300 is the size of the published SSD300."""


UNUSED = (
    *("data.draw", "data.draw.", "run.dir", "run.name", "run.report", "train.epochs", "train.log_interval"),
    *("train.val_interval", "train.save_interval", "train.keep", "train.on_nonfinite"),
)
"""Options that are for a run with its folder, or for drawn images."""


WIDEST = 1000  # columns of a table


def run_benchmark(
    config_path: Path | None,
    overrides: Mapping[str, Any],
    *,
    only: str | None,
    json_path: Path | None,
    quick: bool,
    device: str,
    baselines: Sequence[Path] = (),
) -> None:
    """Measure, print a table a section, and write the figures; see `ssdlite benchmark --help`."""
    names = choose_sections(only)
    if baselines and "infer" not in names:
        raise ConfigError("--rival has no effect without the section infer; add it to --only.")
    if missing := next((path for path in baselines if not path.is_file()), None):
        raise ConfigError(f"--rival {missing}: there is no such file.")
    require_device_name(device)
    config = load_config(config_path, overrides if config_path else {**DEFAULTS, **overrides})
    if unused := next((name for name in option_names(overrides) if is_among(name, UNUSED)), None):
        raise ConfigError(f"{unused} has no effect on a benchmark, which makes no run; leave it out.")
    if config.data.draw is None and (config.data.path, config.data.train, config.data.val) != (None, None, None):
        require_data(config.data)
    if json_path:
        require_writable(json_path)
    from ssdlite.benchmark.workload import prepare
    from ssdlite.build.model import prior_levels
    from ssdlite.build.training import build_dtype
    from ssdlite.machine import describe_machine
    from ssdlite.training.distributed import choose_device

    prior_levels(config.model)  # refuses those that are to be fitted, before anything is drawn
    chosen = choose_device(device)
    started = time.perf_counter()
    machine = describe_machine(chosen, build_dtype(config.train.precision, chosen))
    _print_machine(machine, quick)
    with tempfile.TemporaryDirectory(prefix="ssdlite-benchmark-") as scratch:
        with console.status("Preparing the images"):
            workload = prepare(config, chosen, Path(scratch), quick=quick, baselines=baselines)
        rows: list[Row] = []
        for number, name in enumerate(names, start=1):
            with console.status(f"Measuring {name}, {number} of {len(names)}"):
                found = SECTIONS[name](workload)
            _print_rows(name, found)
            rows += found
    seconds = time.perf_counter() - started
    console.print(f"Measured in {seconds:.0f} s.")
    if json_path:
        document = {
            "machine": machine,
            "quick": quick,
            "seconds": round(seconds, 1),
            "config": _what_matters(config),
            "rows": [row._asdict() for row in rows],
        }
        write_text(json_path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        console.print(f"Wrote {json_path}")


def choose_sections(only: str | None) -> list[str]:
    """The names in `only`, between commas, in their order; all without it. Raises ConfigError for others."""
    if only is None:
        return list(SECTIONS)
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in SECTIONS:
            near = difflib.get_close_matches(name, SECTIONS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise ConfigError(f"--only is {', '.join(SECTIONS)} or several of them with commas, not '{name}'{hint}")
    return list(dict.fromkeys(names))


def _what_matters(config: Config) -> dict[str, Any]:
    """The options without those of a run's folder."""
    return {name: node for name, node in config.to_dict().items() if name != "run"}


def _print_machine(machine: dict[str, Any], quick: bool) -> None:
    shown = {
        name: value for name, value in machine.items() if value is not None and name not in ("threads", "versions")
    }
    console.print(", ".join(f"{name} {value}" for name, value in shown.items()))
    for name in ("threads", "versions"):
        console.print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in machine[name].items()))
    if quick:
        console.print("--quick: one run of each, to see that everything works; the figures mean little.")


def _print_rows(name: str, rows: Rows) -> None:
    table = Table(title=name, title_justify="left", box=None, padding=(0, 2))
    for column in ("", "median", "unit", "quartiles", "runs", "note"):
        justify: Literal["left", "right"] = "right" if column in ("median", "quartiles", "runs") else "left"
        table.add_column(column, justify=justify, no_wrap=True)
    for row in rows:
        spread = "" if row.low is None or row.high is None else f"{_figure(row.low)} – {_figure(row.high)}"
        table.add_row(row.name, _figure(row.value), row.unit, spread, str(row.runs), row.note)
    # As wide as it is: a narrow screen breaks lines, but no figure out of a file is cut.
    table.width = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    console.print(table)


def _figure(value: float) -> str:
    """Three digits that count, or all of a large number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
