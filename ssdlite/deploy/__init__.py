"""Shipping: files of other programs, the proof that they compute the same, and answering with them."""
