"""A detector as one HTML page that holds network, runtime and code, opened from disk without a network.

Start with `page`, which puts the files beside it together.
"""
