"""`python -m ssdlite`, which is also what torchrun starts."""

from ssdlite.cli import main

main()
