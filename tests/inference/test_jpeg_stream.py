import io

import cv2
import numpy as np
import pytest
from PIL import Image

from ssdlite.inference.inputs import split_images


def encode(value, **options):
    noise = np.random.default_rng(value).integers(0, 256, (40, 56, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", **options)
    return buffer.getvalue()


class Dripping:
    """A stream that gives a few bytes at a time, and counts how many."""

    def __init__(self, data, step):
        self.data, self.step, self.given = data, step, 0

    def read(self, _):
        chunk = self.data[self.given : self.given + self.step]
        self.given += len(chunk)
        return chunk


def thumbnailed():
    """A JPEG image with another one in its Exif block, as cameras write them."""
    exif = Image.Exif()
    exif[0x010E] = "before"
    plain = encode(5, exif=exif)
    inner = encode(6, quality=30)
    length = plain.index(b"before") - 2
    segment = b"\xff\xe2" + (len(inner) + 2).to_bytes(2, "big") + inner
    return plain[:2] + segment + plain[2:] if length > 0 else plain


KINDS = {
    "baseline": lambda: encode(1),
    "progressive": lambda: encode(2, progressive=True),
    "restarts": lambda: encode(3, restart_marker_blocks=2),
    "thumbnail": thumbnailed,
}


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_images_come_apart_as_they_were_joined(step):
    images = [make() for make in KINDS.values()]
    if step == 1:
        images = images[:1] + images[3:]
    assert list(split_images(Dripping(b"".join(images), step))) == images
    assert list(split_images(Dripping(b"\r\n--frame\r\n\r\n".join(images), step))) == images


def test_an_image_comes_when_it_is_there_not_with_the_next_one():
    first, second = encode(1), encode(2)
    stream = Dripping(first + second, 64)
    next(split_images(stream))
    assert stream.given < len(first) + 64


def test_other_formats_are_one_image():
    data = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    assert list(split_images(io.BytesIO(data))) == [data]
    assert list(split_images(io.BytesIO(b"x"))) == [b"x"]
    assert list(split_images(io.BytesIO(b""))) == []


def test_what_is_broken_off_is_the_rest():
    first, second = encode(1), encode(2)
    for kept in (3, 30, len(second) // 2, len(second) - 1):
        assert list(split_images(io.BytesIO(first + second[:kept]))) == [first, second[:kept]]
