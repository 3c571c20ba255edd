"""Images that are finished in batch are those that the workers finish, and nothing on a GPU is waited for."""

from __future__ import annotations

import colorsys
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssdlite.data.augmentation import Colors, Cut, distort
from ssdlite.data.cache import Form, LongSide, MemoryCache, choose_form
from ssdlite.data.device import describe, distort_batch, finish_images
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.loader import (
    DetectionDataset,
    DraftDataset,
    build_train_loader,
    collate,
    collate_drafts,
    mix_seed,
)
from ssdlite.data.synthetic.pictures import draw_scene
from ssdlite.structures import Batch, DataSplit, Record

FILL = (9, 8, 7)


def keys(count: int, turns: int = 1) -> list[tuple[int, int]]:
    return [(index, mix_seed(turn, index)) for turn in range(turns) for index in range(count)]


def draft_batch(cuts: Sequence[Cut], alignment="half_pixel", with_colors=False, mirrors=(False, False)) -> Batch:
    """A batch of drafts without objects."""
    rows = [
        describe(
            cut,
            mirrored=mirrors[0],
            upside_down=mirrors[1],
            fill=FILL,
            alignment=alignment,
            with_colors=with_colors,
        )
        for cut in cuts
    ]
    pixels = torch.cat([torch.from_numpy(cut.part).reshape(-1, 3) for cut in cuts])
    objects = torch.zeros(len(cuts), 1, 4), torch.zeros(len(cuts), 1).long(), torch.zeros(len(cuts), 1).bool()
    return Batch(pixels, *objects, [], [], [], torch.from_numpy(np.stack(rows)))


def grey_row(*levels: int) -> np.ndarray:
    """(1, w, 3)."""
    return np.array(levels, np.uint8)[None, :, None].repeat(3, axis=2)


class Drawn:
    """Scenes of two sizes with objects anywhere, none in every third; a cache of them that was filled by hand."""

    def __init__(self, form: Form, count: int = 6) -> None:
        self.form = form
        records, self.images = [], []
        for index in range(count):
            rng = np.random.default_rng(index)
            size = ((240, 320), (330, 220))[index % 2]
            scene = draw_scene(rng, size)[0] + 6 * rng.standard_normal((*size, 1))
            self.images.append(form(scene.clip(0, 255).astype(np.uint8)))
            self.images[-1].flags.writeable = False
            corners = rng.uniform(0, 100, (index % 3, 2))
            boxes = np.hstack([corners, corners + rng.uniform(20, 110, corners.shape)]).astype(np.float32)
            labels, flags = np.ones(len(boxes), np.int64), rng.random(len(boxes)) < 0.2
            records.append(Record(Path(), index, size, boxes, labels, flags, np.zeros_like(flags), boxes[:, 0]))
        self.split = DataSplit(records, ("thing",), (1,))

    def read(self, index: int, record: Record) -> np.ndarray:
        return self.images[index]

    def check_workers(self, workers: int) -> None:
        """Any number will do."""


def both_ways(recipe: str, size: tuple[int, int], turns: int, alignment="half_pixel") -> tuple[Batch, Batch]:
    """The same draws by the workers alone, and finished in batch."""
    cache = Drawn(choose_form(recipe, size, alignment))
    options = {"alignment": alignment, "vertical_flip": True, "cache": cache}
    whole = DetectionDataset(cache.split, size, recipe, **options)
    drafts = DraftDataset(cache.split, size, recipe, cache.form, **options)
    chosen = keys(len(cache.images), turns)
    unfinished = collate_drafts([drafts[key] for key in chosen])
    return collate([whole[key] for key in chosen]), finish_images(unfinished, size)


def levels_apart(first: Batch, second: Batch) -> Tensor:
    return (first.images.int() - second.images.int()).abs()


@pytest.mark.parametrize("alignment", ["half_pixel", "asymmetric"])
@pytest.mark.parametrize(("recipe", "size"), [("ssd", (96, 160)), ("ssd", (160, 160)), ("light", (150, 120))])
def test_images_are_those_of_the_workers_and_boxes_to_the_bit(recipe: str, size, alignment) -> None:
    whole, finished = both_ways(recipe, size, turns=8, alignment=alignment)
    for name in ("boxes", "labels", "ignore"):
        assert torch.equal(getattr(whole, name), getattr(finished, name))
    assert (whole.labels > 0).any(1).tolist().count(False) > 8, "images without objects are among them"
    assert finished.images.shape == whole.images.shape
    assert finished.images.dtype == torch.uint8
    assert finished.images.is_contiguous(memory_format=torch.channels_last)
    assert finished.pending is None
    difference = levels_apart(whole, finished)
    assert difference.float().mean() < 0.4
    assert difference.float().mean((1, 2, 3)).max() < 1.5
    assert (difference <= 6).float().mean() > 0.998  # the drawn colours are pure ones, of which a step of H is six
    if recipe == "light":  # nothing but one rounding of OpenCV's fixed point numbers
        assert difference.max() <= 1


def test_mirrors_alone_are_exact() -> None:
    whole, finished = both_ways("flip", (90, 70), turns=8)
    assert torch.equal(whole.images, finished.images)
    assert torch.equal(whole.boxes, finished.boxes)


@pytest.mark.parametrize("recipe", ["ssd", "light"])
@pytest.mark.parametrize("name", ["bccd", "helmet", "coco128"])
def test_so_it_is_on_photographs(real_data: Path, name: str, recipe: str) -> None:
    found = read_split(find_layout(real_data / name).train)
    split = DataSplit(found.records[:12], found.class_names, found.category_ids)
    form = choose_form(recipe, (300, 300))
    cache = MemoryCache([form.size_of(record.size) for record in split.records], form)
    whole = DetectionDataset(split, (300, 300), recipe, cache=cache)
    drafts = DraftDataset(split, (300, 300), recipe, form, cache=cache)
    first = collate([whole[key] for key in keys(12)])
    second = finish_images(collate_drafts([drafts[key] for key in keys(12)]), (300, 300))
    assert torch.equal(first.boxes, second.boxes)
    difference = levels_apart(first, second).float()
    assert difference.mean() < 0.4
    assert (difference <= 6).float().mean() > 0.999


@pytest.mark.parametrize(
    ("alignment", "mirrored", "expected"),
    [
        # Twice as wide: pixel centres at −¼, ¼, ¾ and 1¼ of two pixels, and at 0, ½, 1 and 1½ when asymmetric.
        ("half_pixel", False, [9, 0, 25, 75, 100, 9]),
        ("half_pixel", True, [9, 100, 75, 25, 0, 9]),
        ("asymmetric", False, [9, 0, 50, 100, 100, 9]),
    ],
)
def test_interpolation_fill_and_mirror_by_hand(alignment, mirrored: bool, expected: list[int]) -> None:
    cut = Cut(grey_row(0, 100), (1, 0, 5, 1), Colors())
    images = finish_images(draft_batch([cut], alignment, mirrors=(mirrored, False)), (1, 6)).images
    assert images[0, 0, 0].tolist() == expected
    assert images[0, :, 0, 0].tolist() == list(FILL)


def test_parts_of_a_batch_are_kept_apart() -> None:
    """Of 1x3, 2x1 and 1x1 pixels: each fills its place, upside down, and reads nothing of its neighbours."""
    cuts = [
        Cut(grey_row(10, 20, 30), (0, 0, 3, 2), Colors()),
        Cut(grey_row(40, 50).transpose(1, 0, 2), (0, 0, 3, 2), Colors()),
        Cut(grey_row(60), (2, 0, 3, 1), Colors()),
    ]
    images = finish_images(draft_batch(cuts, mirrors=(False, True)), (2, 3)).images[:, 0]
    assert images.tolist() == [[[10, 20, 30]] * 2, [[50] * 3, [40] * 3], [[9, 9, 9], [9, 9, 60]]]


def test_fill_keeps_its_colour() -> None:
    cut = Cut(grey_row(100), (0, 0, 1, 1), Colors(brightness=20, contrast=1.5))
    images = finish_images(draft_batch([cut], with_colors=True), (1, 2)).images
    assert images[0, :, 0].T.tolist() == [[180, 180, 180], list(FILL)]


@pytest.mark.parametrize(
    ("colors", "bound"),
    [
        (Colors(), 0),
        (Colors(brightness=-20.3, contrast=1.4), 1),
        (Colors(brightness=31, contrast=0.6), 1),
        (Colors(saturation=1.5), 1),
        (Colors(saturation=0.5), 1),
        (Colors(hue=-14.0), 8),  # ten steps of 256 are 14.06 degrees; H itself is rounded to half a step: 3 levels
        (Colors(order=(2, 0, 1)), 0),
        (Colors(17, 1.3, 0.7, 9.9, (1, 2, 0)), 8),
    ],
)
def test_colours_are_those_of_the_workers(colors: Colors, bound: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    row = torch.tensor([[*colors[:4], *colors.order]])
    found = distort_batch(torch.from_numpy(image).permute(2, 0, 1)[None].float(), row)[0].permute(1, 2, 0)
    assert found.min() >= 0
    assert found.max() <= 255
    difference = np.abs(found.round().numpy() - distort(image, colors).astype(int))
    assert difference.max() <= bound
    assert difference.mean() <= bound / 4


def test_hue_is_that_of_colorsys() -> None:
    """To rounding, unlike in the workers; greys, black and white among the colours."""
    image = np.random.default_rng(0).integers(0, 256, (60, 3)).astype(np.float32)
    image[:3] = [[80, 80, 80], [0, 0, 0], [255, 255, 255]]
    degrees = (-18.0, 7.5, 120.0)
    rows = torch.tensor([[0, 1, 1, turn, 0, 1, 2] for turn in degrees])
    found = distort_batch(torch.from_numpy(image.T.copy())[None, :, None].expand(3, 3, 1, 60), rows)
    for turn, colours in zip(degrees, found[:, :, 0].mT.numpy(), strict=True):
        for before, after in zip(image, colours, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
            expected = np.array(colorsys.hsv_to_rgb((hue + turn / 360) % 1, saturation, value)) * 255
            assert np.abs(after - expected).max() < 0.01


def test_finished_batches_pass() -> None:
    batch = draft_batch([Cut(grey_row(1), (0, 0, 1, 1), Colors())])
    finished = finish_images(batch, (1, 1))
    assert finish_images(finished, (1, 1)) is finished


@pytest.mark.parametrize("recipe", ["ssd", "light"])
def test_a_gpu_is_never_waited_for(recipe: str) -> None:
    """Tensors without values that say they lie on a GPU; whatever needs a value raises."""
    columns = {"ssd": 19, "light": 12}[recipe]
    with FakeTensorMode():
        objects = torch.zeros(4, 2, 4), torch.zeros(4, 2).long(), torch.zeros(4, 2).bool()
        drafts = Batch(torch.zeros(5000, 3).byte(), *objects, [], [], [], torch.zeros(4, columns)).to("cuda")
        images = finish_images(drafts, (30, 50)).images
        assert (images.shape, images.dtype, images.device.type) == ((4, 3, 30, 50), torch.uint8, "cuda")
        with pytest.raises(DataDependentOutputException):
            drafts.pending.max().item()


def test_the_rows_travel_with_their_batch() -> None:
    batch = draft_batch([Cut(grey_row(1), (0, 0, 1, 1), Colors())])
    moved = batch.to("meta")
    assert moved.pending.device.type == moved.images.device.type == "meta"
    assert finish_images(batch, (1, 1)).to("cpu").pending is None


def test_a_loader_gives_the_same_drafts_with_any_workers_and_cache(split: DataSplit) -> None:
    """Images that are larger than the form are brought to it by the worker that reads them."""
    form = LongSide(30)
    caches = [None, MemoryCache([form.size_of(record.size) for record in split.records], form)]
    epochs = []
    for workers, cache in zip((0, 1, 0), (*caches, caches[1]), strict=True):
        dataset = DraftDataset(split, (24, 20), "ssd", form, cache=cache)
        epochs.append(list(build_train_loader(dataset, batch_size=3, workers=workers, seed=1)))
    assert len(epochs[0]) == len(split) // 3
    for batches in zip(*epochs, strict=True):
        first = batches[0]
        assert len(first.images) <= 3 * 20 * 30
        assert first.pending.shape == (3, 19)
        for other in batches[1:]:
            assert first.indices == other.indices
            assert all(torch.equal(a, b) for a, b in zip(first[:4], other[:4], strict=True))
            assert torch.equal(first.pending, other.pending)
        assert finish_images(first, (24, 20)).images.shape == (3, 3, 24, 20)


def test_the_recipe_that_draws_nothing_leaves_nothing_to_the_device(split: DataSplit) -> None:
    with pytest.raises(AssertionError, match="nothing is left"):
        DraftDataset(split, (24, 20), "none", LongSide(30))


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made in here hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.held:
                self.held[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.held.pop, storage._cdata)
        self.most = max(self.most, sum(self.held.values()))
        return result


@pytest.mark.parametrize(("recipe", "most"), [("ssd", 97), ("light", 61)])
def test_bytes_a_pixel_are_those_that_are_promised(recipe: str, most: int) -> None:
    rows = torch.ones(4, {"ssd": 19, "light": 12}[recipe])
    rows[:, :7] = torch.tensor([9, 9, 0, 0, 200, 200, 0.5])
    rows[:, 16:] = torch.arange(3.0) if recipe == "ssd" else rows[:, 16:]
    draft = draft_batch([Cut(np.zeros((9, 9, 3), np.uint8), (0, 0, 200, 200), None)] * 4)
    drafts = draft._replace(pending=rows)
    with PeakMemory() as memory:
        finish_images(drafts, (200, 200))
    assert most - 3 < memory.most / (4 * 200 * 200) <= most
