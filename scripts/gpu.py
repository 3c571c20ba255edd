"""Check the GPU path and measure it, on a machine with a CUDA GPU; needs the checkout and the packages alone.

python scripts/gpu.py                      # four parts of at most ten minutes each
python scripts/gpu.py --part correctness   # or speed, end-to-end, evaluation
python scripts/gpu.py --dry-run            # everything at small sizes on a CPU
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = (
    *("torch", "torchvision", "numpy", "cv2", "PIL", "pydantic", "yaml", "typer", "rich", "albumentations"),
    *("pycocotools", "tensorboard", "google.protobuf", "matplotlib", "jinja2", "markupsafe"),
)


def missing_packages() -> list[str]:
    """The modules without which nothing below can be imported."""
    return [name for name in NEEDED if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the checkout need not be installed; processes that are started inherit it

if __name__ == "__main__":
    if missing := missing_packages():
        sys.exit(f"These modules are not installed for {sys.executable}: {', '.join(missing)}.")
    from ssdlite.benchmark.gpu.main import main

    sys.exit(main())
