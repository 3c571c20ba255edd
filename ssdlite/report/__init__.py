"""The HTML report of a training or an evaluation, from ready-made figures: it knows no options and no networks.

Start with `data` (what a report holds) and `page` (how it becomes HTML); `recommendations` has the rules.
"""
