"""Priors against the numbers of the published code (sizes in pixels of an input of 300 x 300 or 320 x 320)."""

import pytest
import torch

from ssdlite.models.priors import generate_priors, level_map_sizes
from ssdlite.models.variants import (
    DIALECTS,
    LUFFICC,
    MMDETECTION,
    PAPER,
    PYTORCH_SSD,
    TENSORFLOW,
    PriorLevel,
    PriorShape,
    level_of,
)

MAPS_300 = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
MAPS_320 = [(20, 20), *MAPS_300[1:]]
STARTS_320 = [0, 2400, 3000, 3150, 3204, 3228]  # of each level, with six priors a cell


def priors_of(dialect, size=(300, 300), maps=MAPS_300):
    return generate_priors(dialect.prior_levels, maps, size, dialect.clamp_priors)


@pytest.mark.parametrize(("name", "count"), [("paper", 1917), ("tensorflow", 1917), ("pytorch-ssd", 3000)])
def test_counts_at_300(name, count):
    assert priors_of(DIALECTS[name]).shape == (count, 4)


@pytest.mark.parametrize(
    ("name", "count"), [("paper", 2034), ("tensorflow", 2034), ("lufficc", 3234), ("mmdetection", 3234)]
)
def test_counts_at_320(name, count):
    assert priors_of(DIALECTS[name], (320, 320), MAPS_320).shape == (count, 4)


def test_first_cell_of_pytorch_ssd():
    # min 60, max 105: s, sqrt(60*105)=79.373, then 2:1 wide, tall, 3:1 wide, tall; centre (.5, .5) * 16
    r2, r3 = 2**0.5, 3**0.5
    expected = [
        [60, 60],
        [79.373, 79.373],
        [60 * r2, 60 / r2],
        [60 / r2, 60 * r2],
        [60 * r3, 60 / r3],
        [60 / r3, 60 * r3],
    ]
    first = priors_of(PYTORCH_SSD)[:6]
    torch.testing.assert_close(first[:, 2:], torch.tensor(expected), atol=1e-3, rtol=0)
    assert first[:, :2].eq(8).all()


def test_c16_c17_the_seeds_quirks_are_kept_in_its_dialect_only():
    quirky, ours = priors_of(PYTORCH_SSD), priors_of(PAPER)
    level1 = slice(19 * 19 * 6, 19 * 19 * 6 + 600)
    # 9.5 * 32 = 304 lies outside of 300 and is clamped to it; 195 * sqrt(3) = 337.7 becomes 300
    assert quirky[level1, 0].max() == 300
    assert quirky[:, 2:].max() == 300
    # 153 of the 3000 were changed by the clamp: 114 centres and 39 sizes
    free = generate_priors(PYTORCH_SSD.prior_levels, MAPS_300, (300, 300), clamp=False)
    assert int((free != quirky).any(dim=1).sum()) == 153
    # ideal centres: the last of 10 cells is at .95, the last of 19 at .974
    last = ours[19 * 19 * 3 :][:600, 0].max()
    torch.testing.assert_close(last, torch.tensor(0.95 * 300))
    assert ours[:, 2:].max() > 300  # no clamp: aspect ratios stay what they are


def test_first_cell_of_paper_has_tensorflows_reduced_boxes():
    first = priors_of(PAPER)[:3]
    r2 = 2**0.5
    expected = torch.tensor([[30, 30], [60 * r2, 60 / r2], [60 / r2, 60 * r2]])
    torch.testing.assert_close(first[:, 2:], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(first[0, :2], torch.tensor([0.5 / 19 * 300] * 2))


def test_interpolated_scales_of_paper():
    priors = priors_of(PAPER)
    starts = [19 * 19 * 3, 19 * 19 * 3 + 600, 19 * 19 * 3 + 750]
    middle = [round(priors[start + 1, 2].item(), 3) for start in starts]
    assert middle == [125.499, 171.026, 216.333]
    assert round(priors[-5, 2].item(), 3) == 292.404


def test_rows_outermost_columns_inner_shapes_innermost():
    level = level_of(((0.1, 1.0), (0.2, 1.0)))
    priors = generate_priors([level], [(2, 3)], (200, 300), clamp=False)
    centers = priors[::2, :2].tolist()
    assert centers == [[50, 50], [150, 50], [250, 50], [50, 150], [150, 150], [250, 150]]
    assert priors[0, 2] == pytest.approx(20) and priors[1, 2] == pytest.approx(40)


def test_aspect_one_is_square_on_an_oblong_input():
    priors = priors_of(PAPER, (200, 400), [(13, 25), (7, 13), (4, 7), (2, 4), (1, 2), (1, 1)])
    assert priors[0, 2] == priors[0, 3] == pytest.approx(20)


def test_tensorflow_is_paper_but_for_its_third():
    ours, theirs = priors_of(PAPER), priors_of(TENSORFLOW)
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)
    tall = theirs[19 * 19 * 3 + 5, 2:]  # 105 px at an aspect of .3333
    torch.testing.assert_close(tall, torch.tensor([60.6187, 181.8744]), atol=1e-3, rtol=0)
    torch.testing.assert_close(ours[19 * 19 * 3 + 5, 2:], torch.tensor([60.6218, 181.8653]), atol=1e-3, rtol=0)


def test_mmdetection_by_hand():
    priors = priors_of(MMDETECTION, (320, 320), MAPS_320)
    starts = [priors[start : start + 6] for start in STARTS_320]
    assert [cell[0, 0].item() for cell in starts] == [8, 16, 32, 53.5, 80, 160]
    assert [cell[0, 2].item() for cell in starts] == pytest.approx([48, 100, 150, 202, 253, 304])
    middle = [round(cell[1, 2].item(), 3) for cell in starts]
    assert middle == [69.282, 122.474, 174.069, 226.066, 277.330, 311.897]
    level3 = priors[3150:3204].view(3, 3, 6, 4)
    assert level3[0, :, 0, 0].tolist() == level3[:, 0, 0, 1].tolist() == [53.5, 160.5, 267.5]
    r2, r3 = 2**0.5, 3**0.5
    expected = [[202 * r2, 202 / r2], [202 / r2, 202 * r2], [202 * r3, 202 / r3], [202 / r3, 202 * r3]]
    torch.testing.assert_close(level3[1, 1, 2:, 2:], torch.tensor(expected), atol=1e-3, rtol=0)
    assert priors[:, 2:].max() > 320  # nothing is clipped


def test_lufficc_by_hand():
    priors = priors_of(LUFFICC, (320, 320), MAPS_320)
    starts = [priors[start : start + 6] for start in STARTS_320]
    assert [cell[0, 0].item() for cell in starts] == [8, 16, 32, 53.5, 80, 160]
    assert [cell[0, 2].item() for cell in starts] == pytest.approx([60, 105, 150, 195, 240, 285])
    middle = [round(cell[1, 2].item(), 3) for cell in starts]
    assert middle == [79.373, 125.499, 171.026, 216.333, 261.534, 306.676]
    # Clamped are 3:1 and 1:3 of level 3 (195·√3 = 338), and all four oblong ones of levels 4 and 5.
    free = generate_priors(LUFFICC.prior_levels, MAPS_320, (320, 320), clamp=False)
    changed = (free != priors).any(dim=1)
    assert [int(part.sum()) for part in changed.tensor_split(STARTS_320[1:])] == [0, 0, 0, 18, 16, 4]
    torch.testing.assert_close(priors[3154], torch.tensor([53.5, 53.5, 320, 195 / 3**0.5]))


@pytest.mark.parametrize("size", [(300, 300), (288, 384), (97, 160)])
@pytest.mark.parametrize("name", list(DIALECTS))
def test_one_prior_of_a_shape_is_to_the_bit_what_it_was_before_there_were_densities(name, size):
    """Written down once more, for a whole map at a time and in double precision."""
    dialect = DIALECTS[name]
    maps = level_map_sizes(size, 6)
    expected = []
    for level, (height, width) in zip(dialect.prior_levels, maps, strict=True):
        step_y, step_x = (
            {"even": side / cells, "rounded": round(side / cells)}.get(level.stride, level.stride)
            for side, cells in zip(size, (height, width), strict=True)
        )
        shapes = torch.tensor([(scale, aspect) for scale, aspect, _ in level.shapes], dtype=torch.float64)
        scales, roots = shapes[:, 0] * min(size), shapes[:, 1].sqrt()
        y = ((torch.arange(height, dtype=torch.float64) + 0.5) * step_y)[:, None, None]
        x = ((torch.arange(width, dtype=torch.float64) + 0.5) * step_x)[None, :, None]
        rows = torch.broadcast_tensors(x, y, scales * roots, scales / roots)
        expected.append(torch.stack(rows, dim=-1).reshape(-1, 4))
    priors = torch.cat(expected)
    if dialect.clamp_priors:
        priors = priors.clamp(min=0).minimum(torch.tensor([size[1], size[0]] * 2, dtype=torch.float64))
    assert priors_of(dialect, size, maps).equal(priors.float())


def test_maps_are_halved_from_stride_16_on():
    assert level_map_sizes((300, 300), 6) == MAPS_300
    assert level_map_sizes((288, 384), 6) == [(18, 24), (9, 12), (5, 6), (3, 3), (2, 2), (1, 1)]


def test_density_2_by_hand():
    """Cells of 16 x 16 pixels: centres at 4 and 12 of each; after them the one of the next shape, at 8."""
    level = PriorLevel((PriorShape(0.25, 1.0, density=2), PriorShape(0.5, 4.0)))
    assert level.priors_per_cell == 5
    priors = generate_priors([level], [(2, 2)], (32, 32), clamp=False).view(2, 2, 5, 4)
    assert priors[0, 0].tolist() == [[4, 4, 8, 8], [12, 4, 8, 8], [4, 12, 8, 8], [12, 12, 8, 8], [8, 8, 32, 8]]
    assert priors[0, 1, :, 0].tolist() == [20, 28, 20, 28, 24] and priors[0, 1, :, 1].tolist() == [4, 4, 12, 12, 8]
    assert priors[1, 0, :, 1].tolist() == [20, 20, 28, 28, 24]


@pytest.mark.parametrize("density", [1, 2, 3, 4])
def test_centres_of_a_density_are_evenly_spread_over_the_input(density):
    level = PriorLevel((PriorShape(0.1, 1.0, density),))
    priors = generate_priors([level], [(3, 4)], (48, 64), clamp=False)
    assert len(priors) == 12 * density**2
    step = 16 / density
    for column, cells in ((0, 4), (1, 3)):
        expected = (torch.arange(cells * density) + 0.5) * step
        torch.testing.assert_close(priors[:, column].unique(), expected)
