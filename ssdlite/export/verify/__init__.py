"""Verification of exported files against PyTorch: outputs, detections and AP.

Start with `verify` (the whole verification); `compare` has the comparisons, `reference` their bounds.
"""
