"""Data sets from a server on 127.0.0.1 that breaks off, ignores Range or sends the wrong bytes."""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from ssdlite.commands.download import VOC_ARCHIVES
from ssdlite.errors import FetchError
from ssdlite.fetch import archives
from tests.conftest import Outcome

SCRIPTS = Path(__file__).parents[2] / "scripts"
PAYLOAD = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Serves `files`; `break_after` bytes at a time, with or without Range. Remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.break_after: int | None = None
        self.resumes = True
        self.asked: list[tuple[str, str | None]] = []  # path, Range

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.server.asked.append((self.path, span))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and self.server.resumes else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = None if self.server.break_after is None else start + self.server.break_after
        self.wfile.write(content[start:stop])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(archives.time, "sleep", lambda seconds: None)
    return archives


def make_zip(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def make_tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_whole_file_arrives_once(server: Server, fetch: ModuleType, tmp_path: Path) -> None:
    server.files["/a.bin"] = PAYLOAD
    for _ in range(2):
        fetch.download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=hashlib.md5(PAYLOAD).hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == PAYLOAD
    assert server.asked == [("/a.bin", None)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, fetch: ModuleType, tmp_path: Path) -> None:
    server.files["/a.bin"], server.break_after = PAYLOAD, 100_000
    fetch.download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == PAYLOAD
    # 256,000 bytes; each request asks for the last byte again.
    assert [span for _, span in server.asked] == [None, "bytes=99999-", "bytes=199998-"]


@pytest.mark.parametrize("have", [1, 1000, len(PAYLOAD)])
def test_a_part_of_an_earlier_run_is_used(server: Server, fetch: ModuleType, tmp_path: Path, have: int) -> None:
    server.files["/a.bin"] = PAYLOAD
    (tmp_path / "a.bin.part").write_bytes(PAYLOAD[:have])
    fetch.download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == PAYLOAD
    assert server.asked == [("/a.bin", f"bytes={have - 1}-" if have > 1 else None)]


def test_a_server_without_range_starts_over(server: Server, fetch: ModuleType, tmp_path: Path) -> None:
    server.files["/a.bin"], server.resumes = PAYLOAD, False
    (tmp_path / "a.bin.part").write_bytes(b"x" * 300_000)
    fetch.download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == PAYLOAD


def test_a_part_longer_than_the_file_starts_over(server: Server, fetch: ModuleType, tmp_path: Path) -> None:
    server.files["/a.bin"] = PAYLOAD
    (tmp_path / "a.bin.part").write_bytes(PAYLOAD + PAYLOAD)
    fetch.download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == PAYLOAD


def test_a_wrong_checksum_is_refused(server: Server, fetch: ModuleType, tmp_path: Path) -> None:
    server.files["/a.bin"] = PAYLOAD
    with pytest.raises(FetchError, match=r"a\.bin: the MD5 is .*, not 0{32}"):
        fetch.download(f"{server.url}/a.bin", tmp_path / "a.bin", md5="0" * 32)
    assert not list(tmp_path.iterdir())


def test_an_archive_brought_by_hand_is_verified(fetch: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"other")
    with pytest.raises(FetchError, match="delete it"):
        fetch.download("http://127.0.0.1:9/a.bin", tmp_path / "a.bin", md5="0" * 32)
    assert (tmp_path / "a.bin").exists()


def test_no_progress_gives_up_and_keeps_the_part(server: Server, fetch: ModuleType, tmp_path: Path) -> None:
    server.files["/a.bin"], server.break_after = PAYLOAD, 1
    with pytest.raises(FetchError, match=r"closed after 1 of 256000 bytes; check the network"):
        fetch.download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin.part").exists()


def test_a_missing_file_is_not_asked_for_twice(server: Server, fetch: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="404"):
        fetch.download(f"{server.url}/none.bin", tmp_path / "none.bin")
    assert len(server.asked) == 1


def test_an_unreachable_server_is_named(fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/a\.bin: .*refused"):
        fetch.download("http://127.0.0.1:9/a.bin", tmp_path / "a.bin")


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_lands_outside(fetch: ModuleType, tmp_path: Path, name: str, kind: str) -> None:
    archive_path, target_dir = tmp_path / f"a.{kind}", tmp_path / "in"
    make = make_zip if kind == "zip" else make_tar
    archive_path.write_bytes(make(**{"fine.txt": b"fine", name: b"evil"}))
    with pytest.raises(FetchError, match="points outside"):
        fetch.unpack(archive_path, target_dir)
    assert [path.name for path in tmp_path.rglob("*")] == [archive_path.name]


def test_links_are_refused(fetch: ModuleType, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/"
        archive.addfile(link)
    with pytest.raises(FetchError, match="'link' in the archive is a link"):
        fetch.unpack(tmp_path / "a.tar", tmp_path / "in")


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_damaged_archive_is_deleted(fetch: ModuleType, tmp_path: Path, name: str) -> None:
    content = bytearray(make_zip(x=PAYLOAD) if name == "a.zip" else make_tar(x=PAYLOAD))
    if name == "a.zip":
        content[5000] ^= 1  # the directory stays whole; only the CRC can tell
    else:
        content = content[:5000]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FetchError, match="damaged"):
        fetch.unpack(tmp_path / name, tmp_path / "in")
    assert not (tmp_path / name).exists()


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script, which is a thin caller of `ssdlite download`."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    return subprocess.run(
        [sys.executable, SCRIPTS / name, *arguments], capture_output=True, text=True, env=environment
    )


def test_coco_is_laid_out_a_split_at_a_time(server: Server, tmp_path: Path) -> None:
    annotations = {
        f"annotations/{kind}_{split}2017.json": b"{}"
        for kind in ("instances", "captions")
        for split in ("train", "val")
    }
    server.files = {
        "/annotations/annotations_trainval2017.zip": make_zip(**annotations),
        "/zips/val2017.zip": make_zip(**{"val2017/1.jpg": b"jpg"}),
        "/zips/train2017.zip": make_zip(**{"train2017/2.jpg": b"jpg"}),
    }
    result = run_script("download_coco.py", str(tmp_path), "--split", "val2017", "--base-url", server.url)
    assert result.returncode == 0, result.stderr
    visible = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("[!.]*") if path.is_file())
    assert visible == ["annotations/instances_val2017.json", "val2017/1.jpg"]

    for _ in range(2):
        assert run_script("download_coco.py", str(tmp_path), "--base-url", server.url).returncode == 0
    assert (tmp_path / "annotations" / "instances_train2017.json").exists()
    assert (tmp_path / "train2017" / "2.jpg").exists()
    assert [path for path, _ in server.asked].count("/zips/val2017.zip") == 1
    assert len(server.asked) == 4


def test_voc_with_another_checksum_is_refused_in_a_sentence(server: Server, tmp_path: Path) -> None:
    server.files["/voc2007/VOCtest_06-Nov-2007.tar"] = make_tar(**{"VOCdevkit/VOC2007/a.txt": b"not VOC"})
    result = run_script("download_voc.py", str(tmp_path), "--split", "test2007", "--base-url", server.url)
    assert result.returncode == 1
    assert "not b6e924de25625d8de591ea690078ad9f" in result.stderr and "Traceback" not in result.stderr


def test_voc_is_laid_out(server: Server, fetch: ModuleType, tmp_path: Path) -> None:
    content = make_tar(**{"VOCdevkit/VOC2007/ImageSets/Main/test.txt": b"000001\n"})
    server.files["/voc2007/VOCtest_06-Nov-2007.tar"] = content
    archive = fetch.Archive("voc2007/VOCtest_06-Nov-2007.tar", hashlib.md5(content).hexdigest())
    fetch.fetch_archives([archive], server.url, tmp_path)
    assert (tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt").read_bytes() == b"000001\n"


def test_voc_checksums_are_those_of_torchvision(fetch: ModuleType) -> None:
    """By file name: torchvision has changed the host between its versions."""
    voc = importlib.import_module("torchvision.datasets.voc")
    published = {(entry["url"].rsplit("/", 1)[1], entry["md5"]) for entry in voc.DATASET_YEAR_DICT.values()}
    assert {(archive.url_path.rsplit("/", 1)[1], archive.md5) for archive in VOC_ARCHIVES.values()} <= published


def test_ctrl_c_keeps_the_part(
    cli: Callable[..., Outcome], fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(url: str, part_path: Path) -> None:
        part_path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_transfer", interrupt)
    outcome = cli("download", "voc", tmp_path, "--split", "test2007", "--base-url", "http://127.0.0.1:9")
    assert outcome.code == 130 and "goes on from here" in outcome.err
    assert (tmp_path / "VOCtest_06-Nov-2007.tar.part").read_bytes() == b"half"


def test_an_address_without_http_is_refused(fetch: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="correct --base-url"):
        fetch.fetch_archives([], "file:///etc", tmp_path)


def test_a_disk_failure_is_a_sentence(fetch: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match="run the same command again"):
        fetch.fetch_archives([], "http://127.0.0.1", tmp_path / "file" / "folder")


def test_a_split_that_is_not_there_is_refused(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = cli("download", "coco", tmp_path, "--split", "val2018")
    assert outcome.code == 2 and "--split is train2017, val2017, not 'val2018'." in outcome.err
