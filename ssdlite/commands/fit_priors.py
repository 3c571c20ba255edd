"""`ssdlite fit-priors`: whether the priors can fit the data, and others that do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ssdlite.build.data import find_sources, read_data
from ssdlite.commands.arguments import DATA_SET, require_effect
from ssdlite.commands.console import console
from ssdlite.config.loss import MultiboxConfig
from ssdlite.config.overrides import apply_overrides, expand_words
from ssdlite.config.schema import Config, as_yaml, load_config, read_options
from ssdlite.errors import ConfigError
from ssdlite.io import one_line, require_writable, write_text
from ssdlite.structures import DataSplit

if TYPE_CHECKING:
    from ssdlite.build.priors import Cost
    from ssdlite.priors.fit import FitRow, PriorFit


BACKGROUND_BELOW, NEG_POS_RATIO = 0.3, 6
"""Option that `multibox` should have with dense priors; see `_mines_near_misses`."""


USED = (*(*DATA_SET, "data.augmentation", "model", "model.", "loss", "loss.", "run.seed"),)
"""Options of the network that the priors are for, and of what they are fitted to."""


ENOUGH = 0.95
"""Share of the objects with a prior of IoU .5 from which on priors are not what holds a detector back."""


def run_fit_priors(
    path: Path | None,
    overrides: Mapping[str, Any],
    *,
    config_path: Path | None,
    json_path: Path | None,
    max_priors: int | None,
) -> None:
    """Fit priors to a config's data or to a folder; see `ssdlite fit-priors --help`."""
    if path is not None and not path.exists():
        raise ConfigError(f"{path}: there is no such folder or config file; check the path.")
    if path is not None and path.is_dir():
        overrides, path = {"data.path": str(path), **overrides}, None
    if config_path is None:
        require_effect(overrides, USED, on="priors without --write FILE")
    config = _read_config(path, overrides)
    for written in (config_path, json_path):
        if written is not None:
            require_writable(written)
    if config_path is not None and config_path.exists():
        raise ConfigError(f"{config_path} exists already; let --write name a new file.")
    splits = _read(config)
    train = splits["training"]
    from ssdlite.build.priors import MAX_IMAGES, cost, fit, measure
    from ssdlite.priors.fit import draw_boxes, input_boxes, spread

    config = _with_place_for(config, max_priors)
    fitted = fit(config, train, max_priors=max_priors)
    boxes = {name: input_boxes(split, config.model.input_size) for name, split in splits.items()}
    sample = spread(train, MAX_IMAGES)
    other_draws = config.run.seed + len(sample)  # than those that they were fitted to
    boxes["augmented"] = draw_boxes(sample, config.model.input_size, config.data.augmentation, seed=other_draws)
    fits = {name: (measure(config, own), measure(fitted, own)) for name, own in boxes.items()}
    costs = (cost(config, train.class_names), cost(fitted, train.class_names))
    evaluated = "validation" if "validation" in splits else "training"
    _print(fits, evaluated, costs)
    if json_path:
        write_text(json_path, json.dumps(_as_document(fitted, fits, costs), indent=2) + "\n")
        console.print(f"Wrote {json_path}")
    if config_path:
        nodes = apply_overrides(expand_words(read_options(path) if path else {}), overrides)
        nodes["model"] = {**(nodes.get("model") or {}), "priors": fitted.to_dict()["model"]["priors"]}
        if _mines_near_misses(fitted):
            loss = nodes.get("loss") or {}
            assignment = {**(loss.get("assignment") or {}), "background_below": BACKGROUND_BELOW}
            nodes["loss"] = {**loss, "assignment": assignment, "neg_pos_ratio": NEG_POS_RATIO}
            console.print(
                "Dense priors nearly fit many objects that they do not learn. So that they are not mined as "
                f"negatives, loss.assignment.background_below is {BACKGROUND_BELOW} there and loss.neg_pos_ratio "
                f"{NEG_POS_RATIO}."
            )
        write_text(config_path, _heading(fits[evaluated], path) + as_yaml(nodes))
        console.print(f"Wrote {config_path}; train with: ssdlite train {config_path}", soft_wrap=True)


def _mines_near_misses(config: Config) -> bool:
    """Return whether its priors are dense and its loss is `multibox` as it is by default, which then learns too
    little of the background: on a set of small objects the AP of dense priors was .311, and .360 with the two
    options."""
    shapes = config.model.priors
    is_dense = not isinstance(shapes, str) and any(shape.density > 1 for level in shapes for shape in level)
    loss, default = config.loss, MultiboxConfig()
    return (
        is_dense
        and isinstance(loss, MultiboxConfig)
        and (loss.assignment, loss.neg_pos_ratio) == (default.assignment, default.neg_pos_ratio)
    )


def _read_config(path: Path | None, overrides: Mapping[str, Any]) -> Config:
    """Return the config whose priors are to be fitted. Raises ConfigError where that cannot be."""
    config = load_config(path, overrides)
    if (config.data.path, config.data.train) == (None, None):
        raise ConfigError("there is nothing to fit priors to: name a folder, a config file, or data=PATH.")
    if config.model.head != "ssdlite":
        raise ConfigError(f"model.head={config.model.head} has no priors, so there is nothing to fit.")
    return config


def _with_place_for(config: Config, max_priors: int | None) -> Config:
    """Return `config` with its dialect and the priors that it has.

    Raises ConfigError where `max_priors` is less than those, and as `build.settle_dialect`.
    """
    from ssdlite.build.model import settle_dialect
    from ssdlite.build.priors import place, with_priors

    config = settle_dialect(config)
    plain = with_priors(config, "dialect")
    num_own = len(place(plain.model))
    if max_priors is not None and max_priors < num_own:
        raise ConfigError(f"--max-priors={max_priors} is less than the {num_own} that the dialect has; give more.")
    return plain if config.model.priors == "auto" else config


def _read(config: Config) -> dict[str, DataSplit]:
    """The splits that there are, to train on first."""
    names = {"training": "train", "validation": "val"}
    there = {name: split for name, split in names.items() if find_sources(config.data).has(split)}
    if "training" not in there:
        raise ConfigError("there is no data to train: give data=PATH, or data.train with a source.")
    return dict(zip(there, read_data(config.data, [*there.values()]), strict=True))


def _heading(fits: tuple[PriorFit, PriorFit], path: Path | None) -> str:
    before, after = (_percent(one.total.share_reached) for one in fits)
    origin = one_line(str(path)) if path else "The defaults"
    return (
        f"# {origin} with priors fitted by 'ssdlite fit-priors': {after} of the objects have one at\n"
        f"# IoU .5 or more, where they were {before}.\n"
    )


def _print(fits: dict[str, tuple[PriorFit, PriorFit]], evaluated: str, costs: tuple[Cost, Cost]) -> None:
    console.print(f"Before → after; sizes and shapes (width:height) of the {evaluated} objects.")
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("objects", "reached %", "mean IoU", "forced", "none", "learnt by"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, (old, new) in fits.items():
        _add_row(table, name, old.total, new.total)
    for rows in ("by_size", "by_shape"):
        table.add_row()
        for before, after in zip(*(getattr(one, rows) for one in fits[evaluated]), strict=True):
            if before.num_objects:
                _add_row(table, before.name, before, after)
    console.print(table)
    console.print("reached: the best prior has IoU .5 or more; forced: only a prior below .5 learns the object;")
    console.print("none: no prior does; learnt by: so many priors; augmented: as training may show them.")
    cheap, dear = costs
    growth = 100 * (dear.multiply_adds / cheap.multiply_adds - 1)
    console.print(
        f"Cost: {dear.num_priors:,} priors (before: {cheap.num_priors:,}), {dear.head_parameters:,} parameters of "
        f"the heads (before: {cheap.head_parameters:,}), {dear.multiply_adds / 1e6:,.0f} million multiply-adds "
        f"({growth:+.1f} %)."
    )
    console.print(advice(*(one.total for one in fits[evaluated])))


def _add_row(table: Table, name: str, before: FitRow, after: FitRow) -> None:
    table.add_row(
        name,
        f"{before.num_objects:,}",
        *(
            " → ".join(show(getattr(row, field)) for row in (before, after))
            for field, show in (
                ("share_reached", lambda share: "–" if share is None else f"{100 * share:.1f}"),
                ("mean_iou", lambda iou: "–" if iou is None else f"{iou:.2f}".lstrip("0")),
                ("num_forced", "{:,}".format),
                ("num_unmatched", "{:,}".format),
                ("mean_positives", lambda count: "–" if count is None else f"{count:.1f}"),
            )
        ),
    )


def advice(before: FitRow, after: FitRow) -> str:
    """Return advice about two fits of the same objects, as a sentence."""
    if before.share_reached is None or after.share_reached is None:
        return "There is no object to measure priors with."
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
            " A larger model.input_size, which makes objects larger beside the cells of 16 pixels, reaches more."
        )
    return text


def _missed(row: FitRow) -> int:
    return row.num_objects - round((row.share_reached or 0) * row.num_objects)


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
