"""Starting from another network: what fits is taken over, by layer, by prior and by class; the rest stays fresh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ssdlite.models.backbone import fold_eps, fold_input
from ssdlite.models.corner import CornerDetector
from ssdlite.models.detector import Detector
from ssdlite.models.layers import AnyLayer, corner_layers, layers
from ssdlite.models.network import Network
from ssdlite.models.variants import PriorLevel, PriorShape

PARTS = {
    "stem": "backbone",
    "block": "backbone",
    "last": "backbone",
    "extra": "extra levels",
    "regression": "box head",
    "classification": "class head",
    "neck": "neck",
    "top_left": "branches",
    "bottom_right": "branches",
    "heatmap": "heatmaps",
}


@dataclass
class PartCount:
    """Counts of the parameters of one part of the network that were taken, left fresh or left over."""

    loaded: int = 0  # as they were
    remapped: int = 0  # folded into other constants, or moved to another prior or class
    new: int = 0


@dataclass(frozen=True)
class TransferReport:
    """Report of a `transfer`."""

    parts: dict[str, PartCount]
    new_norms: int  # those of layers that stay fresh
    kept_classes: tuple[str, ...]
    new_classes: tuple[str, ...]

    def __str__(self) -> str:
        rows = [("parameters", "loaded", "remapped", "new")]
        rows += [
            (part, f"{count.loaded:,}", f"{count.remapped:,}", f"{count.new:,}")
            for part, count in self.parts.items()
        ]
        lines = [f"  {part:<14}{loaded:>12}{remapped:>12}{new:>12}" for part, loaded, remapped, new in rows]
        for label, names in (("classes kept", self.kept_classes), ("classes new", self.new_classes)):
            lines.append(f"  {label}: {', '.join(names) or 'none'}")
        return "\n".join(lines)


@torch.no_grad()
def transfer(
    source: Network, source_classes: Sequence[str], target: Network, target_classes: Sequence[str]
) -> TransferReport:
    """Copy from `source` into `target` every layer that has the same shape in both; `source` is not changed.

    They may differ in input size, classes, priors and dialect. Another mean, std or BatchNorm eps is folded in, so
    that the layer computes what it did; another padding, tap, or activation after the extra levels is not made up
    for. Of the heads' last convolutions, each prior takes the rows of the source's prior of the same level that is
    most like it, box rows whole and class rows by class name; background is a class that both have. Class rows stay
    fresh where the two turn logits into scores in different ways, since they would mean something else. Heatmaps of
    corners go by class name too. Between a network with priors and one with corners there is the backbone to copy.
    """
    same_scores = type(source) is type(target) and source.score_activation == target.score_activation
    known = {name: column for column, name in enumerate(source_classes, 1)} if same_scores else {}
    columns = [0 if same_scores else None, *(known.get(name) for name in target_classes)]
    new_norms = 0
    wanted_layers = _layers(target)
    used = {PARTS[layer.part] for layer in wanted_layers}
    counts = {part: PartCount() for part in PARTS.values() if part in used}
    originals = {(layer.part, layer.index, layer.role): layer for layer in _layers(source)}
    if type(source.backbone) is not type(target.backbone):
        originals = {key: layer for key, layer in originals.items() if PARTS[layer.part] != "backbone"}
    for layer in wanted_layers:
        original = originals.get((layer.part, layer.index, layer.role))
        count = counts[PARTS[layer.part]]
        if original is None or not _fits(source, original, target, layer):
            count.new += _num_parameters(target, layer)
            new_norms += layer.norm is not None
        elif layer.part == "heatmap":
            rows = [None if column is None else column - 1 for column in columns[1:]]
            _copy_heatmap(source, original, target, layer, rows, count)
        elif isinstance(source, Detector) and isinstance(target, Detector) and layer.norm is None:
            wanted = columns if layer.part == "classification" else [*range(4)]
            _copy_rows(source, original, target, layer, wanted, count)
        else:
            _copy_layer(source, original, target, layer, count)
    kept = tuple(name for name in target_classes if name in known)
    return TransferReport(counts, new_norms, kept, tuple(name for name in target_classes if name not in known))


def _layers(detector: Network) -> list[AnyLayer]:
    if isinstance(detector, CornerDetector):
        return corner_layers(len(detector.neck.strides), detector.backbone.layers())
    return [*layers(detector.dialect, detector.backbone.layers())]


def _conv(detector: Network, layer: AnyLayer) -> nn.Conv2d:
    conv = detector.get_submodule(layer.conv)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _norm(detector: Network, layer: AnyLayer) -> nn.BatchNorm2d:
    assert layer.norm is not None
    norm = detector.get_submodule(layer.norm)
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def _fits(source: Network, original: AnyLayer, target: Network, layer: AnyLayer) -> bool:
    """Return whether the kernels have one shape; where rows are chosen, but for the number of rows."""
    first = 1 if layer.part in ("classification", "regression", "heatmap") and layer.norm is None else 0
    return _conv(source, original).weight.shape[first:] == _conv(target, layer).weight.shape[first:]


def _num_parameters(detector: Network, layer: AnyLayer) -> int:
    modules = [_conv(detector, layer), *([_norm(detector, layer)] if layer.norm else [])]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _copy_layer(source: Network, original: AnyLayer, target: Network, layer: AnyLayer, count: PartCount) -> None:
    """A convolution and its norm, if any, made to compute in `target` what they did in `source`."""
    conv, old_conv = _conv(target, layer), _conv(source, original)
    if layer.norm is None:
        conv.load_state_dict(old_conv.state_dict())
        count.loaded += _num_parameters(target, layer)
        return
    norm, old_norm = _norm(target, layer), _norm(source, original)
    conv.weight.copy_(old_conv.weight)
    norm.load_state_dict(old_norm.state_dict())
    if conv.bias is not None and old_conv.bias is not None:
        conv.bias.copy_(old_conv.bias)
    elif conv.bias is not None:
        conv.bias.zero_()
    elif old_conv.bias is not None:
        assert norm.running_mean is not None
        norm.running_mean -= old_conv.bias
    folded = original.has_bias != layer.has_bias
    if old_norm.eps != norm.eps:
        fold_eps(norm, old_norm.eps)
        folded = True
    if layer.part == "stem":
        old, new = source.normalize, target.normalize
        if not (torch.equal(old.mean, new.mean) and torch.equal(old.std, new.std)):
            fold_input(conv, norm, old.mean.flatten(), old.std.flatten(), new.mean.flatten(), new.std.flatten())
            folded = True
    if folded:
        count.remapped += _num_parameters(target, layer)
    else:
        count.loaded += _num_parameters(target, layer)


def _copy_heatmap(
    source: Network,
    original: AnyLayer,
    target: Network,
    layer: AnyLayer,
    rows: Sequence[int | None],
    count: PartCount,
) -> None:
    """The rows of a heatmap's convolution, one a class; those of None stay fresh."""
    kept = [row for row, old in enumerate(rows) if old is not None]
    wanted = [old for old in rows if old is not None]
    same = wanted == kept and len(kept) == len(rows) == source.num_classes
    for new, old in zip(_conv(target, layer).parameters(), _conv(source, original).parameters(), strict=True):
        new[kept] = old[wanted]
        taken = new.numel() // len(rows) * len(kept)
        count.new += new.numel() - taken
        if same:
            count.loaded += taken
        else:
            count.remapped += taken


def _copy_rows(
    source: Detector,
    original: AnyLayer,
    target: Detector,
    layer: AnyLayer,
    columns: Sequence[int | None],
    count: PartCount,
) -> None:
    """The rows of a last convolution, (priors of a cell · columns, in, 1, 1); columns of None stay fresh."""
    old_level, level = (detector.prior_levels[layer.index] for detector in (source, target))
    priors = match_shapes(old_level, level)
    old_columns = 4 if layer.part == "regression" else source.num_classes + 1
    kept = [column for column, old in enumerate(columns) if old is not None]
    wanted = [old for old in columns if old is not None]
    in_place = old_level.priors_per_cell == len(priors) and priors == sorted(priors)
    same = in_place and old_columns == len(columns) == len(kept) and wanted == kept
    conv, old_conv = _conv(target, layer), _conv(source, original)
    for new, old in zip(conv.parameters(), old_conv.parameters(), strict=True):
        rows = old.view(old_level.priors_per_cell, old_columns, *old.shape[1:])[priors]
        new.view(len(priors), len(columns), *new.shape[1:])[:, kept] = rows[:, wanted]
        taken = new.numel() // len(columns) * len(kept)
        count.new += new.numel() - taken
        if same:
            count.loaded += taken
        else:
            count.remapped += taken


def match_shapes(source: PriorLevel, target: PriorLevel) -> list[int]:
    """Return for each prior of a cell of `target` the position of the one of `source` whose rows it takes.

    That is the one most like it in log width and height, in which boxes are encoded; of those of one shape the one
    nearest to its place in the cell. Where `source` has one prior of that shape, all of `target`'s start alike.
    """
    sources = [(_log_sides(shape), place) for shape, place in _places(source)]
    positions = []
    for shape, place in _places(target):
        sides = _log_sides(shape)
        distances = [(math.dist(sides, other), math.dist(place, there)) for other, there in sources]
        positions.append(distances.index(min(distances)))
    return positions


def _places(level: PriorLevel) -> list[tuple[PriorShape, tuple[float, float]]]:
    """Shape of each prior of a cell, and where in the cell it stands, 0..1 down and across."""
    return [
        (shape, ((row + 0.5) / shape.density, (column + 0.5) / shape.density))
        for shape in level.shapes
        for row in range(shape.density)
        for column in range(shape.density)
    ]


def _log_sides(shape: PriorShape) -> tuple[float, float]:
    return (
        math.log(shape.scale) + math.log(shape.aspect) / 2,
        math.log(shape.scale) - math.log(shape.aspect) / 2,
    )
