"""Images of a split as they are on the disk: those that cannot be used go, and wrong sizes are the images' own.

Start with `settle_images`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace

from ssdlite.data.headers import read_headers
from ssdlite.data.records import NUM_NAMED
from ssdlite.errors import DataError
from ssdlite.io import one_line
from ssdlite.structures import DataSplit, Record

logger = logging.getLogger(__name__)


MOST_UNUSABLE = 0.5  # of the images of a split may be left out


SENTENCES = {
    "missing": "left out {} whose file is not there",
    "unreadable": "left out {} whose file cannot be read",
    "misfit": "left out {} of another size than its annotation, with boxes that reach out of it "
    "(ssdlite check-data --fix scales them)",
    "size": "took the own size of {} whose annotation has another one, in which all boxes fit",
    "cut": "took {} whose file ends early, so that the last rows are missing",
}


def settle_images(split: DataSplit, name: str) -> DataSplit:
    """Return `split` without the images that cannot be used, where annotated sizes are those of the images.

    Looks at the first and last bytes of each file (see `data.headers`). What is left out or changed is said once
    for each kind, with a count. An annotated size that is not the image's gives way where the boxes fit the image.

    Args:
        split: images and objects.
        name: what messages call its source.

    Raises:
        DataError: more than half of the images cannot be used.
    """
    headers = read_headers(record.image_path for record in split.records)
    kinds: dict[str, list[str]] = defaultdict(list)
    records: list[Record] = []
    for record in split.records:
        header = headers[record.image_path]
        if not header.usable:
            kinds[header.state].append(record.image_path.name)
            continue
        if header.state == "cut":
            kinds["cut"].append(record.image_path.name)
        if not header.fits(record.size):
            limits = (header.width, header.height) * 2
            if (record.boxes > limits).any():
                kinds["misfit"].append(record.image_path.name)
                continue
            kinds["size"].append(record.image_path.name)
            record = replace(record, size=(header.height, header.width))
        records.append(record)
    num_left = len(split.records) - len(records)
    for kind, sentence in SENTENCES.items():
        if names := kinds.get(kind):
            more = f"; and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
            count = f"{len(names)} image{'s' * (len(names) > 1)}"
            message = "%s: " + sentence.format(count) + ": %s%s"
            logger.warning(message, name, "; ".join(map(one_line, names[:NUM_NAMED])), more)
    if num_left and num_left > MOST_UNUSABLE * len(split.records):
        kept = {id(record.image_path) for record in records}
        first = next(record for record in split.records if id(record.image_path) not in kept)
        raise DataError(
            f"{name}: {num_left} of its {len(split.records)} images cannot be used, the first is "
            f"{first.image_path} ({headers[first.image_path].state}); check the images folder with "
            "'ssdlite check-data'"
        )
    return replace_records(split, records) if kinds else split


def replace_records(split: DataSplit, records: list[Record]) -> DataSplit:
    """Return `split` with other images."""
    return DataSplit(records, split.class_names, split.category_ids)
