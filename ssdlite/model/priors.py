"""Prior generation: where the boxes that the network corrects stand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssdlite.model.architecture import PriorLevel


def generate_priors(
    levels: Sequence[PriorLevel],
    map_sizes: Sequence[tuple[int, int]],
    input_size: tuple[int, int],
    clamp: bool,
) -> Tensor:
    """The priors of all levels: (P, 4) cxcywh, input pixels; rows outermost, shapes of a cell innermost.

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


def _level(level: PriorLevel, map_size: tuple[int, int], input_size: tuple[int, int]) -> Tensor:
    step_y, step_x = (_step(level, *pair) for pair in zip(input_size, map_size, strict=True))
    rows, columns = (torch.arange(cells, dtype=torch.float64) + 0.5 for cells in map_size)
    shapes = torch.tensor(level.shapes, dtype=torch.float64)
    scales, aspect_roots = shapes[:, 0] * min(input_size), shapes[:, 1].sqrt()
    grid = [len(rows), len(columns), len(shapes)]
    return torch.stack(
        [
            (columns * step_x)[None, :, None].expand(grid),
            (rows * step_y)[:, None, None].expand(grid),
            (scales * aspect_roots).expand(grid),
            (scales / aspect_roots).expand(grid),
        ],
        dim=-1,
    ).reshape(-1, 4)


def _step(level: PriorLevel, size: int, cells: int) -> float:
    """Pixels between centres along a side of `size` pixels and `cells` cells."""
    match level.stride:
        case "even":
            return size / cells
        case "rounded":
            return round(size / cells)
        case stride:
            return stride
