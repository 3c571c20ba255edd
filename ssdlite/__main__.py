"""`python -m ssdlite`, which is also what torchrun starts."""

from __future__ import annotations

from ssdlite.cli import main

main()
