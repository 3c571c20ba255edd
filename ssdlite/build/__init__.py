"""Builders of objects from options: the only folder that knows both.

Start with `training` (loader, criterion, step) and `model` (network and checkpoint); `data` and
`load` need no PyTorch.
"""
