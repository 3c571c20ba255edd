"""What becomes of images that vanish while a run goes on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.loader import MAX_TRIES, DetectionDataset, ReplacingDataset, build_train_loader, sample_batch
from ssdlite.data.synthetic.dataset import make_synthetic
from ssdlite.errors import DataError
from ssdlite.structures import DataSplit


@pytest.fixture
def split(tmp_path: Path) -> DataSplit:
    make_synthetic(tmp_path / "set", num_train=24, num_val=1, size=(48, 64), seed=0)
    return read_split(find_layout(tmp_path / "set").train)


def test_the_next_readable_image_takes_the_place(split):
    plain = DetectionDataset(split, (32, 32), "ssd")
    dataset = ReplacingDataset(plain)
    expected = plain[4, 7]
    split.records[2].image_path.unlink()
    split.records[3].image_path.write_bytes(b"no image")
    sample = dataset[2, 7]
    assert sample.image.equal(expected.image) and sample.image_id == expected.image_id
    assert sample.index == 2
    assert [str(split.records[i].image_path) in sample.problems[i - 2] for i in (2, 3)] == [True, True]
    assert dataset[4, 7].problems == ()
    split.records[23].image_path.unlink()
    assert dataset[23, 1].image_id == split.records[0].image_id  # after the last comes the first


def test_too_many_in_a_row_are_the_first_ones_error(split):
    dataset = ReplacingDataset(DetectionDataset(split, (32, 32), "ssd"))
    for record in split.records[:MAX_TRIES]:
        record.image_path.unlink()
    with pytest.raises(DataError, match=split.records[0].image_path.name):
        dataset[0, 1]
    assert len(dataset[1, 1].problems) == MAX_TRIES - 1
    shutil.rmtree(split.records[0].image_path.parent)
    few = ReplacingDataset(DetectionDataset(replace(split, records=split.records[:2]), (32, 32), "ssd"))
    with pytest.raises(DataError, match=split.records[1].image_path.name):
        few[1, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batch_names_them_and_can_be_made_again(split, workers):
    split.records[5].image_path.unlink()
    dataset = DetectionDataset(split, (32, 32), "ssd")
    loader = build_train_loader(dataset, batch_size=24, workers=workers, seed=1)
    (batch,) = loader
    assert len(batch.problems) == 1 and split.records[5].image_path.name in batch.problems[0]
    assert sorted(batch.indices) == list(range(24))
    again = sample_batch(loader, 0, batch.indices)
    assert again.images.equal(batch.images) and again.image_ids == batch.image_ids
