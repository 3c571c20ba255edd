"""The training loop and what it stands on; it receives ready objects.

Start with `loop`, then `step`.
"""
