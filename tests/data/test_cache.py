from __future__ import annotations

import dataclasses
import errno
import itertools
import logging
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdlite.data import cache as caches
from ssdlite.data.cache import (
    DiskCache,
    Form,
    ImageCache,
    LongSide,
    MemoryCache,
    NetworkInput,
    build_cache,
    choose_form,
)
from ssdlite.data.images import read_annotated
from ssdlite.data.loader import DetectionDataset, build_train_loader, build_val_loader
from ssdlite.errors import ConfigError, DataError
from ssdlite.structures import Batch, DataSplit
from tests.data.conftest import write_image

SIZE = (20, 28)
FORM = LongSide(36)  # 40x60 becomes 24x36
KINDS = ("memory", "disk")


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "available_memory", lambda: 10**9)


def make(kind: str, split: DataSplit, form: Form, folder: Path) -> ImageCache:
    cache = build_cache(kind, split, form, folder=folder / "cache")  # type: ignore[arg-type]
    assert cache is not None
    return cache


def cached_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "cache").rglob("*") if path.is_file())


def remove_sources(split: DataSplit) -> None:
    for record in split.records:
        record.image_path.unlink()


def equal(first: Batch, second: Batch) -> bool:
    return first.indices == second.indices and all(
        torch.equal(a, b) for a, b in zip(first[:4], second[:4], strict=True)
    )


def test_forms_by_hand() -> None:
    """640x480 to a long side of 450 is 450x337.5; 100x90 is small enough; of 1x999 one row is left."""
    assert LongSide(450).size_of((480, 640)) == (338, 450)
    assert LongSide(450).size_of((90, 100)) == (90, 100)
    assert LongSide(450).size_of((1, 999)) == (1, 450)
    image = np.array([[0, 10], [20, 50]], np.uint8)[..., None].repeat(3, 2)
    assert LongSide(1)(image).tolist() == [[[20, 20, 20]]]
    assert np.array_equal(LongSide(2)(image), image)
    assert NetworkInput((2, 2))(image).shape == (2, 2, 3)


def test_recipes_with_windows_keep_one_and_a_half_times_the_input() -> None:
    assert choose_form("ssd", (300, 320)) == choose_form("light", (300, 320)) == LongSide(480)
    assert choose_form("ssd", (300, 300), max_side=700) == LongSide(700)
    assert choose_form("none", SIZE) == choose_form("flip", SIZE, max_side=700) == NetworkInput(SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hit_is_the_miss_to_the_bit(split: DataSplit, tmp_path: Path, kind: str) -> None:
    cache = make(kind, split, FORM, tmp_path)
    missed = [cache.read(index, record) for index, record in enumerate(split.records)]
    hit = [cache.read(index, record) for index, record in enumerate(split.records)]
    for first, second, record in zip(missed, hit, split.records, strict=True):
        assert first.shape == (24, 36, 3)
        assert np.array_equal(first, FORM(read_annotated(record)))
        assert np.array_equal(first, second)
        assert not second.flags.writeable, "what is shared must not be written to"


def test_no_cache_and_an_empty_split(split: DataSplit, tmp_path: Path) -> None:
    assert build_cache("none", split, FORM, folder=tmp_path) is None
    empty = dataclasses.replace(split, records=[])
    assert all(make(kind, empty, FORM, tmp_path) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alignment", ["half_pixel", "asymmetric"])
@pytest.mark.parametrize("recipe", ["none", "flip"])
def test_recipes_without_windows_are_bit_identical(split, tmp_path, kind, alignment, recipe) -> None:
    cache = make(kind, split, choose_form(recipe, SIZE, alignment), tmp_path)
    plain = DetectionDataset(split, SIZE, recipe, alignment=alignment)
    cached = DetectionDataset(split, SIZE, recipe, alignment=alignment, cache=cache)
    for _ in range(2):
        for index in range(len(split)):
            first, second = plain[index, index], cached[index, index]
            assert torch.equal(first.image, second.image)
            assert all(torch.equal(a, b) for a, b in zip(first.targets, second.targets, strict=True))
            assert first[2:] == second[2:]


@pytest.mark.parametrize("kind", KINDS)
def test_real_validation_is_bit_identical(real_data: Path, tmp_path: Path, kind: str) -> None:
    from ssdlite.data.formats.layout import find_layout, read_split

    split = read_split(find_layout(real_data / "coco128").train)
    split = dataclasses.replace(split, records=split.records[:12])
    plain = DetectionDataset(split, (300, 300))
    cached = DetectionDataset(split, (300, 300), cache=make(kind, split, choose_form("none", (300, 300)), tmp_path))
    for index in [*range(12), *range(12)]:
        assert torch.equal(plain[index].image, cached[index].image)
        assert torch.equal(plain[index].targets.boxes, cached[index].targets.boxes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_size_and_its_check_stay(split: DataSplit, tmp_path: Path, kind: str) -> None:
    dataset = DetectionDataset(split, SIZE, "ssd", cache=make(kind, split, FORM, tmp_path))
    assert dataset[2, 0].original_size == dataset[2, 0].original_size == (40, 60)
    wrong = dataclasses.replace(split, records=[dataclasses.replace(split.records[0], size=(41, 60))])
    cache = make(kind, wrong, FORM, tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match="60x40 but its annotation says 60x41"):
            DetectionDataset(wrong, SIZE, "ssd", cache=cache)[0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_depend_on_workers_or_on_being_cached(split: DataSplit, tmp_path: Path, kind: str) -> None:
    def epochs(workers: int, folder: Path) -> list[Batch]:
        dataset = DetectionDataset(split, SIZE, "ssd", cache=make(kind, split, FORM, folder))
        loader = build_train_loader(dataset, batch_size=3, workers=workers, seed=1)
        return [batch for epoch in (0, 1, 0) for _ in [loader.sampler.set_epoch(epoch)] for batch in loader]

    alone, shared = epochs(0, tmp_path / "a"), epochs(2, tmp_path / "b")
    assert len(alone) == 9
    assert all(equal(a, b) for a, b in zip(alone, shared, strict=True))
    assert all(equal(a, b) for a, b in zip(shared[:3], shared[6:], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_workers_share_what_each_of_them_has_read(split: DataSplit, tmp_path: Path, kind: str) -> None:
    """The order of the second epoch gives images to the other worker, and the sources are gone."""
    dataset = DetectionDataset(split, SIZE, "ssd", cache=make(kind, split, FORM, tmp_path))
    loader = build_train_loader(dataset, batch_size=1, workers=2, seed=0)
    assert len(list(loader)) == 9
    if kind == "memory":
        remove_sources(split)
    else:
        for record in split.records:  # of the same length and time, but no images
            status = record.image_path.stat()
            record.image_path.write_bytes(b"x" * status.st_size)
            os.utime(record.image_path, ns=(status.st_atime_ns, status.st_mtime_ns))
    loader.sampler.set_epoch(1)
    assert len(list(loader)) == 9


def test_memory_is_told_and_bounded(split: DataSplit, monkeypatch, caplog) -> None:
    """Nine images of 24x36: 23,328 bytes, which is 1 MB when rounded up."""
    sizes = [FORM.size_of(record.size) for record in split.records]
    with caplog.at_level(logging.INFO):
        assert MemoryCache(sizes, FORM).num_bytes == 23_328
    assert "9 images, 1 MB of memory" in caplog.text
    monkeypatch.setattr(caches, "available_memory", lambda: 2 * 23_328)
    MemoryCache(sizes, FORM)
    for options in ({"processes": 2}, {"reserved": 1}):
        with pytest.raises(ConfigError, match=r"1 MB for 9 images.*data\.cache=disk"):
            MemoryCache(sizes, FORM, **options)
    monkeypatch.setattr(caches, "available_memory", lambda: 0)  # the system does not tell
    MemoryCache(sizes, FORM)


def test_memory_is_shared_by_forking_only(split: DataSplit, tmp_path: Path, monkeypatch) -> None:
    memory, disk = (make(kind, split, FORM, tmp_path) for kind in KINDS)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    memory.check_workers(0)
    disk.check_workers(2)
    dataset = DetectionDataset(split, SIZE, cache=memory)
    with pytest.raises(ConfigError, match=r"'spawn'; set data\.cache=disk, or data\.workers=0"):
        build_val_loader(dataset, batch_size=2, workers=2)


def test_a_changed_source_is_read_again(split: DataSplit, tmp_path: Path) -> None:
    cache = make("disk", split, FORM, tmp_path)
    record = split.records[0]
    before = cache.read(0, record)
    time_of_change = record.image_path.stat().st_mtime_ns
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    write_image(record.image_path, pixels=pixels)
    os.utime(record.image_path, ns=(0, time_of_change + 1))
    after = cache.read(0, record)
    assert np.array_equal(after, FORM(pixels))
    assert not np.array_equal(before, after)
    remove_sources(split)
    with pytest.raises(DataError, match="cannot be opened"):
        cache.read(0, record)


def test_another_form_or_annotated_size_has_its_own_file(split: DataSplit, tmp_path: Path) -> None:
    for form in (LongSide(36), LongSide(35), NetworkInput(SIZE), NetworkInput(SIZE, "asymmetric")):
        assert make("disk", split, form, tmp_path).read(0, split.records[0]).shape[:2] == form.size_of((40, 60))
    assert len(cached_files(tmp_path)) == 4


@pytest.mark.parametrize("damage", [0, 5, 16, 2000, -1, "foreign", "longer", "other shape"])
def test_damaged_files_are_made_again(split: DataSplit, tmp_path: Path, damage: int | str) -> None:
    cache = make("disk", split, FORM, tmp_path)
    record = split.records[0]
    whole = cache.read(0, record)
    (path,) = cached_files(tmp_path)
    content = path.read_bytes()
    assert len(content) == 16 + 24 * 36 * 3
    match damage:
        case "foreign":
            path.write_bytes(b"x" * len(content))
        case "longer":
            path.write_bytes(content + b"x")
        case "other shape":
            path.write_bytes(DiskCache.HEADER.pack(DiskCache.SIGNATURE, 36, 24) + content[16:])
        case int(length):
            path.write_bytes(content[:length])
    assert np.array_equal(cache.read(0, record), whole)
    assert path.read_bytes() == content


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_gives_one_warning(split: DataSplit, tmp_path: Path, monkeypatch, caplog) -> None:
    cache = make("disk", split, FORM, tmp_path)
    cache.read(0, split.records[0])
    monkeypatch.setattr(Path, "replace", full)
    for _ in range(2):
        for index, record in enumerate(split.records):
            assert np.array_equal(cache.read(index, record), FORM(read_annotated(record)))
    assert [record.levelname for record in caplog.records if record.levelname != "INFO"] == ["WARNING"]
    assert "No space left on device" in caplog.text
    assert len(cached_files(tmp_path)) == 1, "no temporary file is left"


def test_a_folder_that_cannot_be_made_gives_one_warning(split: DataSplit, tmp_path: Path, caplog) -> None:
    (tmp_path / "cache").write_text("a file")
    cache = make("disk", split, FORM, tmp_path)
    for index, record in enumerate(split.records):
        assert np.array_equal(cache.read(index, record), FORM(read_annotated(record)))
    assert [record.levelname for record in caplog.records if record.levelname != "INFO"] == ["WARNING"]


def test_a_disk_that_is_too_small_is_refused_at_the_start(
    split: DataSplit, tmp_path: Path, monkeypatch, caplog
) -> None:
    """Nine files of 16 + 24 · 36 · 3 bytes; those that are there already need no room."""
    length = 16 + 24 * 36 * 3
    usage = type(caches.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda _: usage(10**9, 0, 8 * length))
    with pytest.raises(ConfigError, match=r"needs 1 MB more, .* has 1 MB free; set data\.cache_dir"):
        make("disk", split, FORM, tmp_path)
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda _: usage(10**9, 0, 9 * length))
    with caplog.at_level(logging.INFO):
        cache = make("disk", split, FORM, tmp_path)
    assert "up to 1 MB" in caplog.text
    for index, record in enumerate(split.records):
        cache.read(index, record)
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda _: usage(10**9, 0, 0))
    make("disk", split, FORM, tmp_path)


def test_old_leftovers_go(split: DataSplit, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    for name, age in (("old.tmp", 25), ("new.tmp", 23), ("old.txt", 25)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age * 3600,) * 2)
    make("disk", split, FORM, tmp_path)
    assert [path.name for path in cached_files(tmp_path)] == ["new.tmp", "old.txt"]


def write_forever(folder: Path) -> None:
    cache, image = DiskCache(folder, [], FORM), np.full((800, 800, 3), 7, np.uint8)
    for number in itertools.count():
        cache._store(cache.folder / "ab" / str(number % 20), image)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system has no fork")
def test_killed_processes_leave_whole_files(tmp_path: Path) -> None:
    """Two at once write the same 20 files of 2 MB again and again until they are killed, most likely within one."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_forever, args=(tmp_path / "cache",), daemon=True) for _ in range(2)]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "cache/ab/19").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for writer in writers:
        writer.kill()
        writer.join()
    cache = DiskCache(tmp_path / "cache", [], FORM)
    whole = sorted((tmp_path / "cache/ab").iterdir())
    assert len(whole) == 20
    for path in whole:
        image = cache._load(path, (800, 800))
        assert image is not None
        assert (image == 7).all()


def test_two_runs_share_a_folder(split: DataSplit, tmp_path: Path) -> None:
    first, second = (make("disk", split, FORM, tmp_path) for _ in range(2))
    for index, record in enumerate(split.records):
        assert np.array_equal(first.read(index, record), second.read(index, record))
    assert len(cached_files(tmp_path)) == 9
