"""Priors against the numbers of the published code (sizes in pixels of a 300 x 300 input)."""

import pytest
import torch

from ssdlite.model.architecture import DIALECTS, PAPER, PYTORCH_SSD, PriorLevel
from ssdlite.model.priors import generate_priors

MAPS_300 = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]


def priors_of(dialect, size=(300, 300), maps=MAPS_300):
    return generate_priors(dialect.prior_levels, maps, size, dialect.clamp_priors)


@pytest.mark.parametrize(("name", "count"), [("paper", 1917), ("pytorch-ssd", 3000)])
def test_counts_at_300(name, count):
    assert priors_of(DIALECTS[name]).shape == (count, 4)


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
    level = PriorLevel(((0.1, 1.0), (0.2, 1.0)))
    priors = generate_priors([level], [(2, 3)], (200, 300), clamp=False)
    centers = priors[::2, :2].tolist()
    assert centers == [[50, 50], [150, 50], [250, 50], [50, 150], [150, 150], [250, 150]]
    assert priors[0, 2] == pytest.approx(20) and priors[1, 2] == pytest.approx(40)


def test_aspect_one_is_square_on_an_oblong_input():
    priors = priors_of(PAPER, (200, 400), [(13, 25), (7, 13), (4, 7), (2, 4), (1, 2), (1, 1)])
    assert priors[0, 2] == priors[0, 3] == pytest.approx(20)
