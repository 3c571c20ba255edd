"""Verification of exported files: outputs and detections against the network's, and AP against AP.

Start with `verify` (the whole verification); `compare` has the comparisons, `reference` the bounds that they use.
"""
