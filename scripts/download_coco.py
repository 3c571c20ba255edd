"""Fetches COCO 2017 and lays it out as `ssdlite train data=DIR` recognises it.

    python scripts/download_coco.py DIR                      # train2017 and val2017: 20 GB, twice that meanwhile
    python scripts/download_coco.py DIR --split val2017      # 1 GB

COCO publishes no checksums. A file is taken for whole when it has the size that the server announced, and every
byte is checked against the zip's own CRC on unpacking.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from fetch import Archive, run

# Plain http: the certificate of this host is another's.
BASE_URL = "http://images.cocodataset.org"


class Split(str, Enum):
    train2017 = "train2017"
    val2017 = "val2017"


def main(
    target_dir: Annotated[Path, typer.Argument(metavar="DIR", help="Made if missing.")],
    split: Annotated[list[Split] | None, typer.Option(help="May be repeated; both by default.")] = None,
    base_url: Annotated[str, typer.Option(help="The server, or a mirror with the same paths.")] = BASE_URL,
) -> None:
    """Fetch COCO 2017 into DIR: annotations/instances_*.json, train2017/, val2017/."""
    names = [chosen.value for chosen in split or Split]
    # Only what belongs to the images: annotations without images are an error when training starts.
    members = tuple(f"annotations/instances_{name}.json" for name in names)
    annotations = Archive("annotations/annotations_trainval2017.zip", members=members)
    images = [Archive(f"zips/{name}.zip") for name in names]
    raise typer.Exit(run([annotations, *images], base_url, target_dir))


if __name__ == "__main__":
    typer.run(main)
