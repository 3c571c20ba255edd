"""ONNX Runtime Web, as the npm package of that name holds it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ssdlite.errors import UserError

LIBRARY = "ort.wasm.bundle.min.mjs"
WASM = "ort-wasm-simd-threaded.wasm"

DEFAULT_PLACES = (Path("data/onnxruntime-web"), Path())
"""Where `scripts/fetch_web_runtime.py` and `npm install onnxruntime-web` put it."""

INSIDE = (".", "dist", "onnxruntime-web/dist", "node_modules/onnxruntime-web/dist")
"""From a folder that a person names to the files: itself, the package, node_modules, or what holds that."""

ADVICE = "run 'npm install onnxruntime-web' here, or name the folder where that was run with --runtime"


@dataclass(frozen=True)
class WebRuntime:
    """What a page needs to run a network in WebAssembly, on a processor with SIMD."""

    version: str
    library: bytes  # a JavaScript module
    wasm: bytes


def find_runtime(folder: Path | None = None) -> WebRuntime:
    """Read it from `folder`, or from the usual places if that is None.

    Raises UserError if it is not there, or is not what it should be.
    """
    places = DEFAULT_PLACES if folder is None else (folder,)
    found = next((place / inside for place in places for inside in INSIDE if _is_there(place / inside)), None)
    if found is None:
        missing = " or ".join(str(place) if place.name else "this folder" for place in places)
        raise UserError(f"there is no ONNX Runtime Web ({LIBRARY} and {WASM}) in {missing}; {ADVICE}.")
    try:
        library, wasm = (found / LIBRARY).read_bytes(), (found / WASM).read_bytes()
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from None
    banner = re.search(rb"ONNX Runtime Web v([0-9A-Za-z.+-]{1,40})", library[:1000])
    if banner is None or not wasm.startswith(b"\0asm"):
        raise UserError(f"{found} holds a damaged ONNX Runtime Web; {ADVICE}.")
    return WebRuntime(banner[1].decode(), library, wasm)


def _is_there(folder: Path) -> bool:
    return (folder / LIBRARY).is_file() and (folder / WASM).is_file()
