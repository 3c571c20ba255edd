import cv2
import numpy as np
import pytest

from ssdlite.export.runtime import suppress
from ssdlite.inference.images import Finder
from ssdlite.inference.tiles import Tiling, merge_tiles, tile_positions
from ssdlite.structures import Detections


def detections(*rows):
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_windows_by_hand():
    # 1000 wide with tiles of 400 and a stride of at most 320: three, 300 apart. 500 high: two.
    tiles = tile_positions((500, 1000), Tiling(400, 0.2))
    assert tiles.tolist() == [
        [0, 0, 400, 400], [300, 0, 700, 400], [600, 0, 1000, 400],
        [0, 100, 400, 500], [300, 100, 700, 500], [600, 100, 1000, 500],
    ]  # fmt: skip
    assert tile_positions((400, 400), Tiling(400)).tolist() == []
    assert tile_positions((100, 500), Tiling(400, 0)).tolist() == [[0, 0, 400, 100], [100, 0, 500, 100]]


@pytest.mark.parametrize("overlap", [0, 0.2, 0.5])
def test_windows_cover_the_image_and_overlap(overlap):
    for height, width in ((333, 1001), (640, 641), (4000, 641)):
        tiles = tile_positions((height, width), Tiling(320, overlap))
        covered = np.zeros((height, width), bool)
        for x1, y1, x2, y2 in tiles:
            covered[y1:y2, x1:x2] = True
            assert x2 - x1 == y2 - y1 == 320
        assert covered.all()
        xs = np.unique(tiles[:, 0])
        assert (np.diff(xs) <= 320 * (1 - overlap) + 1).all()


def test_boxes_move_to_the_image_and_doubles_go_by_class():
    tiles = np.array([[0, 0, 1000, 500], [300, 0, 700, 400]])
    whole = detections([400, 100, 450, 150, 0.6, 1], [400, 100, 450, 150, 0.5, 2], [0, 0, 50, 50, 0.3, 1])
    tile = detections([102, 100, 152, 150, 0.9, 1])
    merged = merge_tiles([whole, tile], tiles, (500, 1000), 0.5)
    assert merged.boxes.tolist() == [[402, 100, 452, 150], [400, 100, 450, 150], [0, 0, 50, 50]]
    np.testing.assert_allclose(merged.scores, [0.9, 0.5, 0.3], rtol=1e-6)
    assert merged.labels.tolist() == [1, 2, 1] and merged.boxes.dtype == np.float32


def test_what_an_edge_cut_off_yields_to_the_whole_object():
    tiles = np.array([[0, 0, 400, 400], [300, 0, 700, 400]])
    left = detections([350, 100, 400, 200, 0.9, 1])  # the left half of the object, cut off at x = 400
    right = detections([50, 100, 150, 200, 0.6, 1])  # all of it: 350..450
    merged = merge_tiles([left, right], tiles, (400, 700), 0.5)
    assert merged.boxes.tolist() == [[350, 100, 450, 200]]
    # Of another class, or with nothing else to show for it, it stays.
    assert len(merge_tiles([left, detections([50, 100, 150, 200, 0.6, 2])], tiles, (400, 700), 0.5).scores) == 2
    assert merge_tiles([left, detections()], tiles, (400, 700), 0.5).boxes.tolist() == [[350, 100, 400, 200]]
    # At the edge of the image itself nothing is cut off.
    at_border = detections([350, 100, 400, 200, 0.9, 1], [340, 90, 400, 300, 0.8, 1])
    assert len(merge_tiles([at_border], np.array([[0, 0, 400, 400]]), (400, 400), 0.5).scores) == 2


def test_one_window_is_the_decoders_own_suppression():
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 80, (60, 2))
    boxes = np.hstack([corners, corners + generator.uniform(5, 30, (60, 2))]).astype(np.float32)
    scores = np.sort(generator.uniform(0, 1, 60).astype(np.float32))[::-1]
    found = Detections(boxes, scores, np.ones(60, np.int64))
    merged = merge_tiles([found], np.array([[0, 0, 120, 120]]), (120, 120), 0.5)
    kept = suppress(boxes, 0.5)
    assert 1 < len(kept) < 60
    np.testing.assert_array_equal(merged.boxes, boxes[kept])


def test_nothing_found_anywhere():
    tiles = np.array([[0, 0, 500, 500], [0, 0, 400, 400]])
    merged = merge_tiles([detections(), detections()], tiles, (500, 500), 0.5)
    assert merged.boxes.shape == (0, 4) and merged.scores.shape == merged.labels.shape == (0,)


class SquareFinder:
    """A stand-in for a network: finds bright squares that are 8 pixels or more wide at its input of 100x100."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(len(batch.images))
        found = []
        for image, (height, width) in zip(batch.images, batch.original_sizes, strict=True):
            mask = (np.asarray(image)[0] > 128).astype(np.uint8)
            stats = cv2.connectedComponentsWithStats(mask)[2][1:]
            scale = np.array([width, height, width, height]) / 100
            rows = [
                [*(np.array([x, y, x + w, y + h]) * scale), min(1, w / 10), 1] for x, y, w, h, _ in stats if w >= 8
            ]
            found.append(detections(*rows))
        return found


def test_small_objects_of_a_large_picture():
    """40 squares of 30 px in 2000x1500: 1.5 px at the input as a whole, 10 px in tiles of 300."""
    image = np.zeros((1500, 2000, 3), np.uint8)
    generator = np.random.default_rng(0)
    cells = generator.permutation(20 * 15)[:40]
    expected = []
    for cell in cells.tolist():
        x, y = (
            100 * (cell % 20) + int(generator.integers(0, 60)),
            100 * (cell // 20) + int(generator.integers(0, 60)),
        )
        image[y : y + 30, x : x + 30] = 255
        expected.append([x, y, x + 30, y + 30])
    image[600:1100, 700:1400] = 255  # and one that no tile holds
    expected = [box for box in expected if not (box[2] > 690 and box[0] < 1410 and box[3] > 590 and box[1] < 1110)]
    predictor = SquareFinder()
    (whole,) = Finder(predictor, (100, 100))([image])
    assert len(whole.scores) == 1
    (tiled,) = Finder(predictor, (100, 100), batch_size=16, tiling=Tiling(300, 0.2))([image])
    assert predictor.batches == [1, 16, 16, 16, 7]  # the whole, and 9x6 tiles
    small = tiled.boxes[(tiled.boxes[:, 2] - tiled.boxes[:, 0]) < 60]
    distance = np.abs(np.array(expected)[:, None] - small[None]).max(axis=2)
    assert (distance.min(axis=1) <= 4).all()  # each is found, to 1.5 pixels of the input
    assert len(small) == len(expected)  # and once
    assert (np.abs(tiled.boxes - [700, 600, 1400, 1100]).max(axis=1) < 25).any()


def test_an_image_that_one_tile_covers_is_looked_at_once():
    image = np.zeros((200, 280, 3), np.uint8)
    image[50:90, 60:110] = 255
    predictor = SquareFinder()
    (whole,) = Finder(predictor, (100, 100))([image])
    (tiled,) = Finder(predictor, (100, 100), tiling=Tiling(300))([image])
    assert predictor.batches == [1, 1] and len(whole.scores) == 1
    for ours, theirs in zip(tiled, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
