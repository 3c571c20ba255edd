"""Priors for a data set: how well given ones fit its objects, and the search for others.

Start with `fit` (the measure), then `search`.
"""
