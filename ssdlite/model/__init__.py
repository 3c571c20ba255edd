"""The network: backbone, priors, heads, and the decoder of their output."""
