"""Every option: names, types, defaults and documentation, and how a text becomes a value.

Start with `schema` (the whole config); `data`, `model`, `loss` and `training` hold its sections, `overrides`
reads words.
"""
