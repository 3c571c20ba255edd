"""Benchmarks of this machine: loader, training step, whole training, evaluation and inference, with their memory.

Start with `workload` (what is measured) and `timing` (clocks, tables, memory); each other module
is one section.
"""
