"""Exported models: writing them for other runtimes, verifying them against PyTorch, and predicting with them.

Start with `exporters` (writing a file), `metadata` (what a file says about itself) and `predictor` (running one).
"""
