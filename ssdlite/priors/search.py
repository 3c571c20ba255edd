"""Priors for a data set: its own sizes and ratios, as dense as its objects are small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ssdlite.models.priors import cell_steps, level_map_sizes
from ssdlite.models.variants import PriorLevel, PriorShape

MAX_ASPECT = 20.0  # or one over it


MAX_DENSITY = 4  # FaceBoxes' (Zhang et al. 2017, tab. 1): centres 4 px apart on the map of stride 16


MAX_OBJECTS = 20_000  # that are looked at, spread evenly over those that there are


NUM_CLUSTERS = 32


MAX_ROUNDS = 50  # of k-means, which has settled before


MIN_USE = 1e-3  # share of the objects that a shape has to reach to be kept


TARGET = 0.98  # share of the objects that is to be reached; beyond it are the tiny and the outlandish


STRIDES = 3.0  # side of a prior in strides of its map: those of SSD's published levels are near 3


def fit_priors(
    boxes: np.ndarray,
    levels: Sequence[PriorLevel],
    input_size: tuple[int, int],
    *,
    max_priors: int,
    iou_threshold: float = 0.5,
    target: float = TARGET,
    seed: int = 0,
) -> tuple[PriorLevel, ...]:
    """The priors of `levels`, without those that hardly any object needs and with those that it lacks.

    1. Shapes of `levels` that reach fewer than MIN_USE of the objects go, but for the first of a level that would
       have none left. With fewer than 1 / MIN_USE objects all stay.
    2. NUM_CLUSTERS shapes are found by k-means with the distance 1 − IoU of centred boxes (Redmon and Farhadi 2017,
       sec. 2), and given to the map whose stride is nearest to a third of their side.
    3. Again and again the shape is added, or made denser up to MAX_DENSITY, that reaches most objects anew for each
       prior that it costs: until `target` of them is reached, or nothing more fits into `max_priors`.

    To be reached is to have a prior of an IoU of `iou_threshold` or more, where the object is: with one centre a
    cell no choice of shapes does that for objects much smaller than a cell. Without objects `levels` stay as they
    are.

    Args:
        boxes: (N, 4) xyxy, input pixels, of all images together; best half of them as in validation and half as
            augmented, because random crops enlarge objects. Crowds and what is to be ignored are left out.
        levels: what to start from, which the weights to start from know; their centres stay.
        input_size: (height, width), pixels.
        max_priors: bound on all priors together, at least as many as `levels` have.
        seed: of k-means.
    """
    boxes = _usable(boxes)
    if not len(boxes):
        return tuple(levels)
    grids = Grids(levels, input_size, boxes, iou_threshold)
    pool = [(index, shape) for index, level in enumerate(levels) for shape in level.shapes]
    density = _densities_kept(pool, grids)
    for width, height in cluster(boxes[:, 2:] - boxes[:, :2], NUM_CLUSTERS, seed):
        pool.append((grids.home(width, height), _shape(width, height, min(input_size))))
        density.append(0)
    _densify(pool, density, grids, target, max_priors)
    fitted = []
    for index, level in enumerate(levels):
        places = [place for place, (home, _) in enumerate(pool) if home == index and density[place]]
        shapes = sorted(pool[place][1]._replace(density=density[place]) for place in places)
        fitted.append(replace(level, shapes=tuple(shapes)))
    return tuple(fitted)


def _densities_kept(pool: Sequence[tuple[int, PriorShape]], grids: Grids) -> list[int]:
    """The density of each shape of a pool of (level, shape), and 0 for those that are dropped."""
    if len(grids.boxes) * MIN_USE < 1:  # so few objects do not tell what there is no need for
        return [shape.density for _, shape in pool]
    used = [bool(grids.reached(*one).mean() >= MIN_USE) for one in pool]
    homes = [home for home, _ in pool]
    for home in {*homes} - {home for home, is_used in zip(homes, used, strict=True) if is_used}:
        used[homes.index(home)] = True
    return [shape.density if is_used else 0 for (_, shape), is_used in zip(pool, used, strict=True)]


def _densify(
    pool: Sequence[tuple[int, PriorShape]], density: list[int], grids: Grids, target: float, max_priors: int
) -> None:
    """Raise the densities of the pool's shapes, 0 for those that are not there, in place."""
    reached_by = np.array(
        [[grids.reached(home, shape._replace(density=n + 1)) for n in range(MAX_DENSITY)] for home, shape in pool]
    )  # (shapes, densities, objects)
    cells = np.array([grids.cells[home] for home, _ in pool])
    costs = np.arange(1, MAX_DENSITY + 1) ** 2
    reached = np.array([row[n - 1] & (n > 0) for row, n in zip(reached_by, density, strict=True)])
    while reached.any(axis=0).mean() < target:
        # Centres of one density are not those of another, so that a shape made denser loses some objects too.
        by_others = reached.sum(axis=0) - reached > 0
        lost = (reached & ~by_others).sum(axis=-1)
        added = (costs - np.square(density)[:, None]) * cells[:, None]
        room = max_priors - int((np.square(density) * cells).sum())
        gains = (reached_by & ~by_others[:, None]).sum(axis=-1) - lost[:, None]
        value = gains / np.where((added > 0) & (added <= room), added, np.inf)
        if value.max() <= 0:
            break
        place, index = np.unravel_index(value.argmax(), value.shape)
        density[place] = int(index) + 1
        reached[place] = reached_by[place, index]


def cluster(sizes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """k-means of (N, 2) widths and heights with the distance 1 − IoU: (≤ count, 2), smallest area first.

    The first centres are drawn as k-means++ does; then each is the geometric mean of what is nearest to it.
    """
    sizes = sizes.astype(np.float64)
    generator = np.random.default_rng(seed)
    centers = sizes[[generator.integers(len(sizes))]]
    distance = 1 - _centered_iou(sizes, centers)[:, 0]
    while len(centers) < count and distance.max() > 1e-9:
        chosen = generator.choice(len(sizes), p=distance**2 / (distance**2).sum())
        centers = np.concatenate([centers, sizes[[chosen]]])
        distance = np.minimum(distance, 1 - _centered_iou(sizes, centers[-1:])[:, 0])
    nearest = None
    for _ in range(MAX_ROUNDS):
        previous, nearest = nearest, _centered_iou(sizes, centers).argmax(axis=1)
        if previous is not None and (nearest == previous).all():
            break
        for place in np.unique(nearest):
            centers[place] = np.exp(np.log(sizes[nearest == place]).mean(axis=0))
    return centers[np.argsort(centers.prod(axis=1), kind="stable")]


def _centered_iou(sizes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of boxes around one point, from (N, 2) and (M, 2) widths and heights: (N, M)."""
    common = np.minimum(sizes[:, None, 0], others[:, 0]) * np.minimum(sizes[:, None, 1], others[:, 1])
    return common / (sizes.prod(axis=1)[:, None] + others.prod(axis=1) - common)


def _usable(boxes: np.ndarray) -> np.ndarray:
    """Boxes with sides of a pixel or more, which are those that are learnt; MAX_OBJECTS at most."""
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)].astype(np.float64)
    return boxes[np.arange(MAX_OBJECTS) * len(boxes) // MAX_OBJECTS] if len(boxes) > MAX_OBJECTS else boxes


def _shape(width: float, height: float, unit: int) -> PriorShape:
    """Rounded to what a person can read; .0001 of the input's side is less than a pixel."""
    aspect = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
    return PriorShape(round(float(np.sqrt(width * height)) / unit, 4), round(float(aspect), 3))


class Grids:
    """The objects (N, 4) on the cells of each level: which of them a prior of every cell would reach."""

    def __init__(
        self, levels: Sequence[PriorLevel], input_size: tuple[int, int], boxes: np.ndarray, iou_threshold: float
    ) -> None:
        self.map_sizes = level_map_sizes(input_size, len(levels))
        self.cells = [height * width for height, width in self.map_sizes]
        self.steps = [cell_steps(*pair, input_size) for pair in zip(levels, self.map_sizes, strict=True)]
        self.unit = min(input_size)
        self.boxes = boxes
        self.iou_threshold = iou_threshold

    def home(self, width: float, height: float) -> int:
        """The level for priors of this size in pixels."""
        distances = [abs(np.log(np.sqrt(width * height / np.prod(steps)) / STRIDES)) for steps in self.steps]
        return int(np.argmin(distances))

    def reached(self, index: int, shape: PriorShape) -> np.ndarray:
        """(N,) bool. Of the priors of one shape the nearest overlaps an object most, side by side."""
        sides = self.unit * shape.scale * np.array([shape.aspect**0.5, shape.aspect**-0.5])
        common = np.ones(len(self.boxes))
        for axis in (0, 1):  # across, down
            cells, step = self.map_sizes[index][1 - axis], self.steps[index][1 - axis] / shape.density
            low, high = self.boxes[:, axis], self.boxes[:, axis + 2]
            nearest = np.clip(np.floor((low + high) / 2 / step), 0, cells * shape.density - 1)
            center = (nearest + 0.5) * step
            overlap = np.minimum(high, center + sides[axis] / 2) - np.maximum(low, center - sides[axis] / 2)
            common *= overlap.clip(min=0)
        areas = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
        iou: np.ndarray = common / (areas + sides.prod() - common)
        return iou >= self.iou_threshold
