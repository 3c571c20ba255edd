"""ONNX graph of a network: tracing, heads, suppression, precision and operator set.

Start with `model`, which traces a network and assembles a file.
"""
