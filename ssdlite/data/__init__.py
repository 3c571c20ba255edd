"""Data from annotation files on disk to batches: records, images, augmentation, cache and loaders.

Start with `records` (what an annotated image is) and `loader` (how it becomes part of a batch); `formats`
reads files.
"""

import os

# albumentations asks the network for a newer version at import unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
