"""Prior generation: where the boxes that the network corrects stand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssdlite.models.variants import PriorLevel


def generate_priors(
    levels: Sequence[PriorLevel],
    map_sizes: Sequence[tuple[int, int]],
    input_size: tuple[int, int],
    clamp: bool,
) -> Tensor:
    """The priors of all levels: (P, 4) cxcywh, input pixels; rows outermost, priors of a cell innermost.

    Within a cell they come shape by shape; the n² of a shape of density n row by row, at (i + ½) / n of the cell.

    Args:
        levels: shapes and centre spacing of each feature map.
        map_sizes: (height, width) of each feature map.
        input_size: (height, width) of the network input. On an input that is not square, scales are relative
            to its shorter side, so that aspect 1 stays square.
        clamp: restrict centres and sizes to the input (pytorch-ssd's quirk; corners may still leave it).
    """
    assert len(levels) == len(map_sizes)
    height, width = input_size
    priors = torch.cat([_level(*pair, input_size) for pair in zip(levels, map_sizes, strict=True)])
    if clamp:
        limit = torch.tensor([width, height, width, height], dtype=priors.dtype)
        priors = priors.clamp(min=0).minimum(limit)
    return priors.float()


def level_map_sizes(input_size: tuple[int, int], num_levels: int) -> list[tuple[int, int]]:
    """(height, width) of each level. Every stride is a 3×3 convolution, n -> ⌈n/2⌉ with either padding."""
    sizes = []
    height, width = input_size
    for halvings in range(1, 4 + num_levels):
        height, width = (height + 1) // 2, (width + 1) // 2
        if halvings >= 4:  # the first map that is read has stride 16
            sizes.append((height, width))
    return sizes


def cell_steps(level: PriorLevel, map_size: tuple[int, int], input_size: tuple[int, int]) -> tuple[float, float]:
    """Pixels from one cell's centre to the next, down and across."""
    down, across = (_step(level, *pair) for pair in zip(input_size, map_size, strict=True))
    return down, across


def _level(level: PriorLevel, map_size: tuple[int, int], input_size: tuple[int, int]) -> Tensor:
    step_y, step_x = cell_steps(level, map_size, input_size)
    rows, columns = (torch.arange(cells, dtype=torch.float64) for cells in map_size)
    cells = []
    for scale, aspect, density in level.shapes:
        within = (torch.arange(density, dtype=torch.float64) + 0.5) / density
        width, height = _sides(scale * min(input_size), aspect)
        grid = [len(rows), len(columns), density, density]
        shape = torch.stack(
            [
                ((columns[:, None] + within) * step_x)[None, :, None, :].expand(grid),
                ((rows[:, None] + within) * step_y)[:, None, :, None].expand(grid),
                torch.full(grid, width, dtype=torch.float64),
                torch.full(grid, height, dtype=torch.float64),
            ],
            dim=-1,
        )
        cells.append(shape.flatten(2, 3))
    return torch.cat(cells, dim=2).reshape(-1, 4)


def _sides(size: float, aspect: float) -> tuple[float, float]:
    return size * math.sqrt(aspect), size / math.sqrt(aspect)


def _step(level: PriorLevel, size: int, cells: int) -> float:
    """Pixels between the centres of cells along a side of `size` pixels and `cells` cells."""
    match level.stride:
        case "even":
            return size / cells
        case "rounded":
            return round(size / cells)
        case stride:
            return stride
