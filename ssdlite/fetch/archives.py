"""Archives of a web server: downloads that resume, are verified, and unpack nothing outside their folder.

A file grows as NAME.part and takes its name once it is whole and verified. After unpacking, the archive is deleted
and `.NAME.done` remembers it, so the same command run again fetches only what is missing.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
    track,
)

from ssdlite.errors import FetchError

ATTEMPTS = 6  # in a row without a new byte: half a minute of pauses


TIMEOUT_SECONDS = 60.0


CHUNK_BYTES = 1 << 20


FATAL_STATUSES = {400, 401, 403, 404, 405, 410, 451}  # asking again will not help


Member = tuple[str, Callable[[], IO[bytes]]]  # path in the archive, and how to open it


class _TransferError(Exception):
    """The network failed in a way that may pass."""


@dataclass(frozen=True)
class Archive:
    """A .zip or .tar on a server."""

    url_path: str  # relative to the base URL
    md5: str | None = None  # as published; None where the publisher gives none
    members: tuple[str, ...] = ("",)  # unpack what begins so: by default everything

    @property
    def name(self) -> str:
        return PurePosixPath(self.url_path).name


def fetch_archives(archives: list[Archive], base_url: str, target_dir: Path) -> None:
    """Download and unpack into `target_dir` each archive that is not there yet. Raises FetchError."""
    if not base_url.startswith(("http://", "https://")):
        raise FetchError(f"'{base_url}' is no http:// or https:// address; correct --base-url")
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            _fetch_archive(archive, base_url, target_dir)
    except OSError as error:
        place = error.filename or target_dir
        raise FetchError(f"{place}: {error.strerror or error}; mend this and run the same command again") from None


def _fetch_archive(archive: Archive, base_url: str, target_dir: Path) -> None:
    done_path = target_dir / f".{archive.name}.done"
    done = set(done_path.read_text(encoding="utf-8").splitlines()) if done_path.exists() else set()
    if done.issuperset(archive.members):
        print(f"{archive.name}: already there")
        return
    archive_path = target_dir / archive.name
    download(f"{base_url.rstrip('/')}/{archive.url_path}", archive_path, md5=archive.md5)
    unpack(archive_path, target_dir, archive.members)
    done_path.write_text("\n".join([*sorted(done.union(archive.members)), ""]), encoding="utf-8")
    archive_path.unlink()


def download(url: str, path: Path, *, md5: str | None = None, first_pause: float = 1.0) -> None:
    """Fetches `url` to `path`, going on from `path`.part; a `path` that exists is only verified.

    A broken transfer is taken up again, after `first_pause` seconds and then twice as long each time. Whole means
    the size that the server announced, and `md5` where given. Raises FetchError; OSError for the disk's troubles.
    """
    if path.exists():
        if md5 is not None and (found := _md5(path)) != md5:
            raise FetchError(f"{path}: the MD5 is {found}, not {md5}; delete it and run the same command again")
        return
    part_path = path.with_name(f"{path.name}.part")
    failures, most_bytes = 0, _size(part_path)
    while True:
        try:
            _transfer(url, part_path)
            break
        except _TransferError as error:
            failures = 1 if _size(part_path) > most_bytes else failures + 1
            most_bytes = max(most_bytes, _size(part_path))
            if failures >= ATTEMPTS:
                raise FetchError(f"{url}: {error}; check the network and run the same command again") from error
            time.sleep(first_pause * 2 ** (failures - 1))
    if md5 is not None and (found := _md5(part_path)) != md5:
        part_path.unlink()
        raise FetchError(
            f"{url}: the MD5 is {found}, not {md5}; it was deleted, run again or try another --base-url"
        )
    part_path.replace(path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _transfer(url: str, part_path: Path) -> None:
    """One request for what is missing. Raises _TransferError if the end was not reached."""
    # The last byte is fetched again: a part that is whole then needs no case of its own.
    offset = max(0, _size(part_path) - 1)
    with _open(url, offset, part_path) as response:
        if response.status == http.client.PARTIAL_CONTENT:
            start, total = _content_range(response)
            if start != offset:
                raise FetchError(
                    f"{url}: asked for byte {offset}, the server sends {start}; try another --base-url"
                )
        else:  # the server does not resume
            offset, total = 0, int(response.headers.get("Content-Length", 0)) or None
        with part_path.open("r+b" if offset else "wb") as file, _progress_bar() as bar:
            file.seek(offset)
            task = bar.add_task(part_path.stem, total=total, completed=offset)
            while chunk := _read(response):
                file.write(chunk)
                bar.advance(task, len(chunk))
            file.truncate()
    if total is not None and _size(part_path) != total:
        raise _TransferError(f"the connection closed after {_size(part_path)} of {total} bytes")


def _open(url: str, offset: int, part_path: Path) -> http.client.HTTPResponse:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        if error.code in FATAL_STATUSES:
            raise FetchError(f"{url}: the server answers {error.code} {error.reason}; check --base-url") from error
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part_path.unlink()  # longer than the file: begun from another one
        raise _TransferError(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(str(getattr(error, "reason", error))) from error
    return response


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK_BYTES)
    except http.client.IncompleteRead as error:
        return error.partial
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(str(error)) from error


def _content_range(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte and full size of a 206 answer: 'bytes 100-199/200', the size possibly '*'."""
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    start = span.partition("-")[0]
    return int(start) if start.isdigit() else -1, int(total) if total.isdigit() else None


def _progress_bar() -> Progress:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns)


def unpack(archive_path: Path, target_dir: Path, prefixes: tuple[str, ...] = ("",)) -> None:
    """Unpacks the files whose path begins with one of `prefixes` from a .zip or .tar under `target_dir`.

    Every byte of a zip is checked against its CRC.

    Raises FetchError for a damaged archive (which is deleted) or a member that would land elsewhere.
    """
    opened = zipfile.ZipFile if archive_path.suffix == ".zip" else tarfile.open
    try:
        with opened(archive_path) as archive:
            members = list(_zip_members(archive) if isinstance(archive, zipfile.ZipFile) else _tar_members(archive))
            wanted = [member for member in members if member[0].startswith(prefixes)]
            targets = [_target(archive_path, target_dir, name) for name, _ in wanted]
            pairs = zip(targets, wanted, strict=True)
            for target, (_, open_member) in track(pairs, f"{archive_path.name}: unpacking", total=len(wanted)):
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_member() as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        archive_path.unlink()
        raise FetchError(
            f"{archive_path} is damaged ({error}); it was deleted, run the same command again"
        ) from error


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        if not info.is_dir():
            yield info.filename, partial(archive.open, info)


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive.getmembers():
        if info.isdir():
            continue
        if not info.isfile():
            raise FetchError(
                f"'{info.name}' in the archive is a link or a device, not a file; nothing was unpacked"
            )
        yield info.name, partial(_open_file, archive, info)


def _open_file(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None, "only files are asked for"
    return file


def _target(archive_path: Path, target_dir: Path, name: str) -> Path:
    """Return the path that a member is unpacked to. Raises FetchError if that is outside `target_dir`."""
    target = (target_dir / name).resolve()
    if not target.is_relative_to(target_dir.resolve()):
        raise FetchError(f"{archive_path}: '{name}' points outside {target_dir}; nothing was unpacked")
    return target
