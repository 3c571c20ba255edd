"""Checks of a data set beyond what its reader collects, and cleaned copies of its annotations.

Start with `check` (all checks); `rules` are those over annotations, `images` those over image files; `problems`
sorts and counts what was found; `repair` writes the copies.
"""
