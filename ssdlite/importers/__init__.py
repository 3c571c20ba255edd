"""Networks of other programs, by tables that name every tensor.

Start with `names` (how a table is applied); `pretrained` fetches and keeps the networks that have a name.
"""
