"""The page, put together from the files beside this one.

Whatever a model says of itself is hostile here: a class name may hold `</script>`. Names travel as JSON in which no
`<` is left, become text nodes and never HTML, and a Content-Security-Policy lets no script run but the page's own
and no connection be made at all.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdlite.deploy.onnx_predictor import OnnxPredictor
from ssdlite.deploy.web.runtime import WebRuntime
from ssdlite.errors import ConfigError

FOLDER = Path(__file__).parent
SCRIPTS = ("pixels.js", "detector.js", "drawing.js", "sources.js", "view.js", "page.js")

POLICY = (
    "default-src 'none'; script-src {scripts} 'wasm-unsafe-eval' blob:; style-src {style}; img-src data: blob:; "
    "media-src blob: mediastream:; base-uri 'none'; form-action 'none'"
)
"""`blob:` is ONNX Runtime's library, which the page unpacks from itself."""


LARGEST_FIGURE = 1e9


def require_page(predictor: OnnxPredictor, path: Path) -> None:
    """Raises ConfigError unless the page can run the file at `path`, which `predictor` has opened."""
    if predictor.card.head != "nms":
        raise ConfigError(
            f"{path} has head '{predictor.card.head}', but a page needs final detections; "
            "export it again with --head nms."
        )
    if (form := predictor.card.input_form) != "float-nchw":
        raise ConfigError(
            f"{path} takes pixels as {form}, but a page gives float-nchw; export it again with the default input."
        )
    if predictor.batch_size not in (None, 1):
        raise ConfigError(
            f"{path} takes {predictor.batch_size} images at a time, but a page gives one; "
            "export it again with --batch 1."
        )


def build_page(model: bytes, predictor: OnnxPredictor, runtime: WebRuntime, title: str) -> str:
    """One HTML document that runs `model` on pictures: the file of `predictor`, for which `require_page` passed."""
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
    # In one pass: what is filled in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("page.html"))


def _describe(predictor: OnnxPredictor, runtime: WebRuntime) -> dict[str, Any]:
    """What page.js knows about the network."""
    card, document = predictor.card, predictor.card.document
    kind = "MobileNetV2 with corners" if document.get("detector") == "corner" else "MobileNetV2-SSDLite"
    network = f"{kind}, width {document.get('width')}, dialect {document.get('dialect')}"
    if precision := document.get("precision"):
        network += f", {precision}"
    return {
        "names": list(card.class_names),
        "size": list(card.input_size),  # height, width
        "alignment": card.resize_alignment,
        "threshold": card.selection.score_threshold,
        "network": network,
        "metrics": _figures(document.get("metrics")),
        "version": str(document.get("version")),
        "runtime": runtime.version,
    }


def _figures(metrics: object) -> dict[str, float]:
    """The numbers among `metrics`: the rest is for programs."""
    given = metrics if isinstance(metrics, Mapping) else {}
    return {
        str(name): float(value)
        for name, value in given.items()
        if type(value) in (int, float) and abs(value) < LARGEST_FIGURE
    }


def _json(value: object) -> str:
    """For a <script>: no `<` may be left, whether of `</script>` or of `<!--`."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")


def _pack(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")


def _digest(text: str) -> str:
    """How a Content-Security-Policy names a script or a style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
