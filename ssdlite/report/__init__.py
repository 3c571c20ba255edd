"""HTML report of a training or an evaluation, from ready-made figures; nothing here knows options or networks.

Start with `data` (content of a report) and `page` (its HTML); `recommendations` has the rules.
"""
