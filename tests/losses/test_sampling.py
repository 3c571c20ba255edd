"""Which priors count: the hardest negatives, and random ones in a fixed number."""

import pytest
import torch

from ssdlite.losses.reduction import mine_hard_negatives, sample_balanced


def labels_of(positives: int, negatives: int, ignored: int) -> torch.Tensor:
    """One image, shuffled."""
    labels = torch.cat([torch.arange(positives) % 3 + 1, torch.zeros(negatives).long(), torch.full((ignored,), -1)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))][None]


def draw(labels: torch.Tensor, seed: int = 0, **options: float) -> torch.Tensor:
    return sample_balanced(labels, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((500, 500, 100), (128, 128)),
        ((10, 500, 0), (10, 246)),  # filled up with negatives; 1:1 would be 10 and 10
        ((0, 500, 9), (0, 256)),
        ((500, 20, 9), (128, 20)),  # positives do not fill up
        ((3, 4, 5), (3, 4)),
        ((0, 0, 7), (0, 0)),
    ],
)
def test_how_many_are_sampled(counts, expected):
    labels = labels_of(*counts)
    chosen = draw(labels)
    assert ((chosen & (labels > 0)).sum().item(), (chosen & (labels == 0)).sum().item()) == expected
    assert not (chosen & (labels < 0)).any()


def test_number_and_share_of_samples():
    labels = labels_of(50, 50, 10)
    chosen = draw(labels, num_samples=9, positive_share=0.25)  # ⌊2.25⌋ positives
    assert ((chosen & (labels > 0)).sum().item(), (chosen & (labels == 0)).sum().item()) == (2, 7)


def test_the_generator_decides():
    labels = labels_of(300, 3000, 20)
    assert draw(labels, seed=3).equal(draw(labels, seed=3))
    assert not draw(labels, seed=3).equal(draw(labels, seed=4))
    generator = torch.Generator().manual_seed(3)
    first, second = (sample_balanced(labels, generator=generator) for _ in range(2))
    assert first.equal(draw(labels, seed=3)) and not first.equal(second)


def test_without_a_generator_torchs_own_decides():
    labels = labels_of(300, 3000, 20)
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(sample_balanced(labels, generator=None))
    assert draws[0].equal(draws[1])


def test_images_are_sampled_each_by_itself():
    labels = torch.cat([labels_of(0, 400, 0), labels_of(400, 0, 0), labels_of(200, 200, 0)])
    chosen = draw(labels)
    assert chosen.sum(dim=1).tolist() == [256, 128, 256]
    assert not chosen[0].equal(chosen[2])


def test_every_prior_is_as_likely_as_the_others():
    """Of 4 positives 1, of 8 negatives 3: a share of .25 and .375, over 4000 images within 5 deviations."""
    labels = torch.tensor([1, 0, 0, -1, 2, 0, 0, 0, 0, 3, 0, 0, 1]).repeat(4000, 1)
    share = draw(labels, num_samples=4, positive_share=0.25).float().mean(dim=0)
    expected = torch.tensor([0.375, 0.25, 0.0])[torch.tensor([1, 0, 0, 2, 1, 0, 0, 0, 0, 1, 0, 0, 1])]
    assert (share - expected).abs().max() < 5 * (0.25 / 4000) ** 0.5


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_nothing_to_sample_from(shape):
    assert draw(torch.zeros(shape, dtype=torch.int64)).shape == shape
    chosen = mine_hard_negatives(
        torch.zeros(shape), torch.zeros(shape).bool(), torch.zeros(shape[0], dtype=torch.int64), 3, 3
    )
    assert chosen.shape == shape


def test_hard_negatives_by_hand():
    losses = torch.tensor([[5.0, 1, 4, 2, 3, 9], [5.0, 1, 4, 2, 3, 9]])
    negative = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]]).bool()
    chosen = mine_hard_negatives(losses, negative, torch.tensor([1, 0]), 3.0, 2)
    assert chosen.int().tolist() == [[1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 0, 0]]


def test_needs_no_values_on_the_host():
    """A tensor on `meta` has none, so whatever would wait for them on a GPU raises here."""
    labels = torch.zeros(2, 7, dtype=torch.int64, device="meta")
    assert sample_balanced(labels, generator=None).shape == (2, 7)
    assert mine_hard_negatives(labels.float(), labels == 0, labels.sum(dim=1), 3, 3).shape == (2, 7)
