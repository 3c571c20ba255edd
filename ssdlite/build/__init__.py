"""From options to objects: the only folder that knows both.

Start with `training` (loader, criterion, step) and `model` (network and checkpoint); `data` and
`load` need no PyTorch.
"""
