"""A data set of drawn shapes, for a first training without a download and for tests with exact boxes.

Start with `dataset`, which writes it in COCO's layout; `pictures` draws one image.
"""
