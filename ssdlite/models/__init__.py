"""The networks: backbone, priors, heads, and the decoder of their output.

Start with `detector` (pixels in, logits and deltas out) and `decode` (from those to detections).
"""
