"""Models as files of other programs: writing them, verifying them against PyTorch, and predicting with them.

Start with `exporters` (writing a file), `metadata` (what a file says about itself) and `predictor` (running one).
"""
