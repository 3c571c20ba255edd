"""Proof and measure of the GPU path: correctness, speed, end to end, evaluation. `scripts/gpu.py` is the command.

Start with `tasks` (what a task is) and `main` (which there are); `isolation` runs them, `report` writes them down.
"""
