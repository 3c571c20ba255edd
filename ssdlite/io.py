"""Reading files that may hold anything, saying what they hold, and writing files whole or not at all."""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import re
import reprlib
import stat
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ssdlite.errors import UserError

LONGEST = 600  # characters of a sentence that holds words of a file


_BRIEF = reprlib.Repr()


_BRIEF.maxstring, _BRIEF.maxlong, _BRIEF.maxother, _BRIEF.maxlevel = 200, 60, 60, 3


_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, what breaks lines, and halves of UTF-16 pairs."""


def require_regular(path: Path) -> None:
    """Raise OSError unless a file of bytes is at `path`: a pipe or a device could keep its reader waiting."""
    try:
        mode = path.stat().st_mode
    except ValueError:
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file. Raises OSError, also as `require_regular`."""
    require_regular(path)
    return path.read_bytes()


def read_text(path: Path) -> str:
    """A file in UTF-8, or in UTF-16 with a byte order mark (as Windows' shells write lists).

    Raises OSError as `read_bytes`, and UnicodeDecodeError.
    """
    data = read_bytes(path)
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def read_json(path: Path) -> Any:
    """The value in a JSON file of any UTF, with or without a byte order mark. NaN and Infinity are read.

    Raises OSError as `read_bytes`, and ValueError as `parse_json`.
    """
    return parse_json(read_bytes(path))


def parse_json(data: bytes) -> Any:
    """Parse JSON in any UTF, with or without a byte order mark. NaN and Infinity are read.

    Raises ValueError for what is no JSON, is nested too deeply to be read, or gives a key of one object twice:
    other programs would take the other value.
    """
    try:
        return json.loads(data, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has the key {quoted(repeated)} twice")
    return made


def load_tensors(path: Path) -> Any:
    """Return the content of a file of `torch.save`, on the CPU. No code that the file may carry is run.

    Raises OSError as `read_bytes`; a damaged file can raise any other Exception.
    """
    import torch  # here, because options are read without it

    require_regular(path)
    if zipfile.is_zipfile(path) and _unpacked_size(path) > path.stat().st_size:
        # torch.save compresses nothing: this was made to fill the memory.
        raise ValueError("it unpacks to more than it is")
    return torch.load(path, map_location="cpu", weights_only=True)


def _unpacked_size(path: Path) -> int:
    """Bytes that the directory of a zip file claims."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # also OSError, which would say that the file cannot be opened
        raise ValueError("its directory is damaged") from error


def is_usable(text: str) -> bool:
    """Return whether `text` can name something: it has no control characters, line breaks or halves of UTF-16
    pairs."""
    return text.isprintable() or not _UNUSABLE.search(text)


def quoted(value: object) -> str:
    """A value that a file gave, for a message: on one line, bounded, and with what cannot be shown escaped."""
    try:
        return one_line(_BRIEF.repr(value))
    except ValueError:  # Python refuses to print thousands of digits
        return "a number of thousands of digits"


def one_line(text: str, longest: int = LONGEST) -> str:
    """`text` without line breaks and control characters, and without its middle if it is longer than `longest`."""
    if len(text) > longest:
        text = f"{text[: longest * 2 // 3]} ... {text[-longest // 3 :]}"
    if text.isprintable():
        return text
    return _UNUSABLE.sub(lambda found: " " if found[0] in "\r\n\t" else ascii(found[0])[1:-1], text)


def spelt_path(text: str, words: Collection[str]) -> Path:
    """Return `text` as a path; a file that is called like one of `words` is given as ./coco, and made absolute.

    So a path that equals one of `words` is that word and no file.
    """
    path = Path(text)
    return path.absolute() if str(path) in words and text not in words else path


def require_writable(path: Path) -> None:
    """Raise UserError if a file cannot be written at `path`; makes its folder. Asked before long work."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file.")
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a temporary file beside `path` and rename it; makes the folders.

    Raises UserError where that is not possible.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to be written, renamed to it if the block ends well; makes the folders.

    `path` stays as it is if anything is raised. Raises UserError for an OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
