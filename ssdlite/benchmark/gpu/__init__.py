"""The GPU's part of `scripts/gpu.py`: correctness against the CPU, speed, end-to-end training, evaluation.

Start with `tasks` (what a task is and how it is run in a process of its own) and `main` (which tasks there are).
"""
