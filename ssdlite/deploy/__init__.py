"""Shipping: exported files, the proof that they compute the same, and predicting with them."""
