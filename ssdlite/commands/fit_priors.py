"""`ssdlite fit-priors`: whether the priors can fit the data, and others that do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from ssdlite.commands.priors import Cost, cost, fit, measure, with_priors
from ssdlite.commands.screen import console
from ssdlite.config import Config, as_yaml, load_config
from ssdlite.data.boxes import draw_boxes, input_boxes
from ssdlite.errors import ConfigError
from ssdlite.files import require_writable, write_text
from ssdlite.model.prior_fit import FitRow, PriorFit
from ssdlite.overrides import apply_overrides, expand_words, read_yaml
from ssdlite.sources import has_split, read_data

ENOUGH = 0.95
"""Share of the objects with a prior of IoU .5 from which on priors are not what holds a detector back."""


def fit_model_priors(
    path: Path | None,
    overrides: Sequence[str],
    *,
    config_path: Path | None,
    json_path: Path | None,
    max_priors: int | None,
) -> None:
    """Fit priors to a config's data or to a folder; see `ssdlite fit-priors --help`."""
    if path is not None and not path.exists():
        raise ConfigError(f"{path}: there is no such folder or config file; check the path.")
    if path is not None and path.is_dir():
        overrides, path = [f"data.path={json.dumps(str(path))}", *overrides], None
    config = load_config(path, overrides)
    if (config.data.path, config.data.train) == (None, None):
        raise ConfigError("there is nothing to fit priors to: name a folder, a config file, or data=PATH.")
    if config.model.head != "ssdlite":
        raise ConfigError(f"model.head={config.model.head} has no priors; there is nothing to fit.")
    for written in (config_path, json_path):
        if written is not None:
            require_writable(written)
    if config_path is not None and config_path.exists():
        raise ConfigError(f"{config_path} exists already; let --write name a new file.")
    if config.model.priors == "auto":
        config = with_priors(config, "dialect")
    splits = dict(zip(*_read(config), strict=True))
    train = splits["training"]
    fitted = fit(config, train, max_priors=max_priors)
    size = config.model.input_size
    boxes = {name: input_boxes(split, size) for name, split in splits.items()}
    boxes["augmented"] = draw_boxes(train, size, config.data.augmentation, seed=config.run.seed + 1)
    fits = {name: (measure(config, own), measure(fitted, own)) for name, own in boxes.items()}
    costs = (cost(config, train.class_names), cost(fitted, train.class_names))
    judged = "validation" if "validation" in splits else "training"
    _print(fits, judged, costs)
    if json_path:
        write_text(json_path, json.dumps(_as_document(fitted, fits, costs), indent=2) + "\n")
        console.print(f"Wrote {json_path}")
    if config_path:
        nodes = apply_overrides(expand_words(read_yaml(path) if path else {}), overrides)
        nodes["model"] = {**(nodes.get("model") or {}), "priors": fitted.to_dict()["model"]["priors"]}
        write_text(config_path, _heading(fits[judged], path) + as_yaml(nodes))
        console.print(f"Wrote {config_path}; train with: ssdlite train {config_path}", soft_wrap=True)


def _read(config: Config) -> tuple[list[str], list[Any]]:
    """The splits that there are, to train on first, and what to call them."""
    names = {"train": "training", "val": "validation"}
    splits = [split for split in names if split == "train" or has_split(config.data, split)]
    return [names[split] for split in splits], read_data(config.data, splits)


def _heading(fits: tuple[PriorFit, PriorFit], path: Path | None) -> str:
    before, after = (_percent(one.total.share_reached) for one in fits)
    return (
        f"# {path or 'The defaults'} with priors fitted by ssdlite fit-priors: {after} of the objects have one at\n"
        f"# IoU .5 or more, where they were {before}.\n"
    )


def _print(fits: dict[str, tuple[PriorFit, PriorFit]], judged: str, costs: tuple[Cost, Cost]) -> None:
    table = Table(box=None, padding=(0, 1))
    table.add_column("objects of")
    for name in ("count", "reached", "", "mean IoU", "", "forced", "", "unmatched", "", "positives", ""):
        table.add_column(name, justify="right")
    for name, pair in fits.items():
        _add_row(table, name, [one.total for one in pair])
    table.add_section()
    for rows in ("by_size", "by_shape"):
        for old, new in zip(*(getattr(one, rows) for one in fits[judged]), strict=True):
            if old.num_objects:
                _add_row(table, old.name, (old, new))
        table.add_section()
    console.print(f"Before and after; sizes and shapes (width to height) are those of the {judged} objects.")
    console.print(table)
    console.print("reached: the best prior has IoU .5 or more; forced: only a prior below .5 learns it.")
    before, after = costs
    growth = 100 * (after.multiply_adds / before.multiply_adds - 1)
    console.print(
        f"Priors: {before.num_priors:,} before, {after.num_priors:,} after; parameters of the heads: "
        f"{before.head_parameters:,} and {after.head_parameters:,}; multiply-adds: "
        f"{before.multiply_adds / 1e6:,.0f} and {after.multiply_adds / 1e6:,.0f} million ({growth:+.1f} %)."
    )
    console.print(advice(*(one.total for one in fits[judged])))


def advice(before: FitRow, after: FitRow) -> str:
    """What to make of two fits of the same objects, in plain words."""
    if before.share_reached is None or after.share_reached is None:
        return "There is no object to judge priors by."
    if before.share_reached >= ENOUGH:
        return (
            f"As they are the priors reach {_percent(before.share_reached)} of the objects: little is to be gained."
        )
    text = (
        f"Of {before.num_objects:,} objects {_missed(before):,} had no prior of IoU .5 and were learnt by a single "
        f"poor one, if at all; now {_missed(after):,} have none. That is where AP may be gained."
    )
    if after.share_reached < ENOUGH:
        text += (
            " Most of those are too small for the first map, of stride 16: a larger model.input_size reaches more."
        )
    return text


def _missed(row: FitRow) -> int:
    return row.num_objects - round((row.share_reached or 0) * row.num_objects)


def _add_row(table: Table, name: str, pair: Sequence[FitRow]) -> None:
    cells = [name, f"{pair[0].num_objects:,}"]
    for one in pair:
        cells.append(_percent(one.share_reached))
    for field in ("mean_iou", "num_forced", "num_unmatched", "mean_positives"):
        for one in pair:
            value = getattr(one, field)
            shown = "–" if value is None else f"{value:,}"
            if isinstance(value, float):
                shown = f"{value:.2f}" if field == "mean_iou" else f"{value:.1f}"
            cells.append(shown)
    table.add_row(*cells)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _as_document(
    fitted: Config, fits: dict[str, tuple[PriorFit, PriorFit]], costs: tuple[Cost, Cost]
) -> dict[str, Any]:
    return {
        "input_size": list(fitted.model.input_size),
        "dialect": fitted.model.dialect,
        "before": {**asdict(costs[0]), **{name: pair[0].to_dict() for name, pair in fits.items()}},
        "after": {**asdict(costs[1]), **{name: pair[1].to_dict() for name, pair in fits.items()}},
        "priors": fitted.to_dict()["model"]["priors"],
    }
