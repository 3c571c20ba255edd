"""Losses: from the detector's output and the targets to named loss terms.

Start with `recipes` (the losses one can choose) and `matching` (which prior learns which object).
"""
