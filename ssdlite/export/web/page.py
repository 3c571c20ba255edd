"""Page of `ssdlite export-web`, built from the files in this folder and the npm package of ONNX Runtime Web."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdlite.errors import ConfigError, UserError
from ssdlite.export.onnxruntime import OnnxPredictor

LIBRARY = "ort.wasm.bundle.min.mjs"


WASM = "ort-wasm-simd-threaded.wasm"


DEFAULT_PLACES = (Path("data/onnxruntime-web"), Path())
"""Folders into which `scripts/fetch_web_runtime.py` and `npm install onnxruntime-web` put it."""


INSIDE = (".", "dist", "onnxruntime-web/dist", "node_modules/onnxruntime-web/dist")
"""Places of the files below a given folder: itself, that of the package, node_modules, or one that holds it."""


ADVICE = "run 'npm install onnxruntime-web' in this folder, or pass the folder where it was run with --runtime"


@dataclass(frozen=True)
class WebRuntime:
    """Files of ONNX Runtime Web that a page needs to run a network in WebAssembly with SIMD."""

    version: str
    library: bytes  # a JavaScript module
    wasm: bytes


def find_runtime(folder: Path | None = None) -> WebRuntime:
    """Read ONNX Runtime Web from `folder`, or from DEFAULT_PLACES if that is None.

    Raises UserError if it is missing or damaged.
    """
    places = DEFAULT_PLACES if folder is None else (folder,)
    found = next((place / inside for place in places for inside in INSIDE if _is_there(place / inside)), None)
    if found is None:
        missing = " or ".join(str(place) if place.name else "this folder" for place in places)
        raise UserError(f"ONNX Runtime Web ({LIBRARY} and {WASM}) is not in {missing}; {ADVICE}.")
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


FOLDER = Path(__file__).parent


SCRIPTS = ("pixels.js", "detector.js", "drawing.js", "sources.js", "view.js", "page.js")


POLICY = (
    "default-src 'none'; script-src {scripts} 'wasm-unsafe-eval' blob:; style-src {style}; img-src data: blob:; "
    "media-src blob: mediastream:; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy; `blob:` is for ONNX Runtime's library, which the page unpacks from itself."""


LARGEST_FIGURE = 1e9  # metrics of a larger magnitude are not shown


def require_page(predictor: OnnxPredictor, path: Path) -> None:
    """Raise ConfigError unless a page can run the file at `path`, which `predictor` has loaded."""
    if predictor.metadata.head != "nms":
        raise ConfigError(
            f"{path} has head '{predictor.metadata.head}', but a page needs detections; "
            "export it again with --head nms."
        )
    if (form := predictor.metadata.input_form) != "float-nchw":
        raise ConfigError(
            f"{path} takes pixels as {form}, but a page supplies float-nchw; "
            "export it again with the default input."
        )
    if predictor.batch_size not in (None, 1):
        raise ConfigError(
            f"{path} takes {predictor.batch_size} images at a time, but a page supplies one; "
            "export it again with --batch 1."
        )


def build_page(model: bytes, predictor: OnnxPredictor, runtime: WebRuntime, title: str) -> str:
    """Return one HTML document that runs `model`, the bytes of the file of `predictor`, on pictures.

    The file must have passed `require_page`.
    """
    style = _read("page.css")
    scripts = [_read(name) for name in SCRIPTS]
    policy = POLICY.format(scripts=" ".join(map(_digest, scripts)), style=_digest(style))
    parts = {
        "policy": html.escape(policy),
        "title": html.escape(title),
        "style": style,
        "runtime_version": html.escape(runtime.version),
        "licence": html.escape(_read("onnxruntime-licence.txt").strip()),
        "card": _json(_describe(predictor, runtime)),
        "model": _pack(model),
        "library": _pack(runtime.library),
        "wasm": _pack(runtime.wasm),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    # In one pass, so that inserted text is not searched for placeholders.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("page.html"))


def _describe(predictor: OnnxPredictor, runtime: WebRuntime) -> dict[str, Any]:
    """Return the facts about the network that page.js uses."""
    metadata, document = predictor.metadata, predictor.metadata.document
    kind = "MobileNetV2 with corners" if document.get("detector") == "corner" else "MobileNetV2-SSDLite"
    network = f"{kind}, width {document.get('width')}, dialect {document.get('dialect')}"
    if precision := document.get("precision"):
        network += f", {precision}"
    return {
        "names": list(metadata.class_names),
        "size": list(metadata.input_size),  # height, width
        "alignment": metadata.resize_alignment,
        "threshold": metadata.selection.score_threshold,
        "network": network,
        "metrics": _figures(document.get("metrics")),
        "version": str(document.get("version")),
        "runtime": runtime.version,
    }


def _figures(metrics: object) -> dict[str, float]:
    """Return the finite numbers among `metrics`, by name."""
    given = metrics if isinstance(metrics, Mapping) else {}
    return {
        str(name): float(value)
        for name, value in given.items()
        if type(value) in (int, float) and abs(value) < LARGEST_FIGURE
    }


def _json(value: object) -> str:
    """Return JSON for a <script>: `<` is escaped, so that it has neither `</script>` nor `<!--`."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")


def _pack(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")


def _digest(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows a script or a style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
