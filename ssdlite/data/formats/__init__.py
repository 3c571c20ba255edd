"""Annotation formats, one module each, and the search for them at a path.

Start with `base`, the seam: `Format` and what its reader gives. `registry` lists the formats; `layout` leads from a
path to the sources of the two splits, and from sources to a split. A new format is a module and a line in
`registry`.
"""
