"""Checks of a data set: every problem at once, and cleaned copies of its annotations.

Start with `check` (all checks) and `findings` (what a check says); `repair` writes the copies.
"""
