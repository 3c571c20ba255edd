"""Annotation formats, one module each, and the search for them at a path.

Start with `layout`: from a path to the sources of the training and validation split.
"""
