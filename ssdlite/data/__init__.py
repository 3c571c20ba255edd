"""From annotation files on disk to batches: readers, augmentation and loaders."""

import os

# albumentations asks the network for a newer version at import unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
