"""`data.stream`: the pixels of the data set's own resize, in order, whatever the number of threads."""

import numpy as np
import pytest

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.loader import DetectionDataset
from ssdlite.data.stream import ImageStream, array_batch
from ssdlite.errors import DataError
from ssdlite.structures import DataSplit


@pytest.fixture(scope="module")
def split(drawn):
    return read_split(find_layout(drawn).train)


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_those_of_the_data_set(split, threads):
    expected = DetectionDataset(split, (48, 64))
    batches = list(ImageStream(split, (48, 64), alignment="half_pixel", batch_size=7, threads=threads))
    assert [len(batch.images) for batch in batches] == [7, 7, 7, 3]
    assert [index for batch in batches for index in batch.indices] == list(range(24))
    for batch in batches:
        for image, index, image_id, size in zip(
            batch.images, batch.indices, batch.image_ids, batch.original_sizes, strict=True
        ):
            assert np.array_equal(image, expected[index].image.numpy())
            assert (image_id, size) == (split.records[index].image_id, split.records[index].size)


def test_length_counts_batches(split):
    assert len(ImageStream(split, (48, 64), alignment="half_pixel", batch_size=5)) == 5


def test_no_images_are_no_batches(split):
    empty = DataSplit([], split.class_names, split.category_ids)
    stream = ImageStream(empty, (48, 64), alignment="half_pixel", batch_size=5)
    assert len(stream) == 0 and list(stream) == []


def test_an_unreadable_image_is_named(split, tmp_path):
    from dataclasses import replace

    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    records = [*split.records[:3], replace(split.records[3], image_path=tmp_path / "broken.jpg")]
    stream = ImageStream(
        DataSplit(records, split.class_names, split.category_ids), (48, 64), alignment="half_pixel", batch_size=2
    )
    with pytest.raises(DataError, match=r"broken\.jpg"):
        list(stream)


def test_a_batch_of_arrays_is_channels_first_and_has_no_targets():
    batch = array_batch(np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3), [(20, 40)])
    assert batch.images.shape == (1, 3, 2, 4) and batch.images[0, :, 0, 1].tolist() == [3, 4, 5]
    assert batch.boxes.shape == (1, 0, 4) and batch.labels.shape == batch.ignore.shape == (1, 0)
