"""Fetches PASCAL VOC 2007 and 2012 and lays them out as `ssdlite train data=DIR` recognises them.

python scripts/download_voc.py DIR                                    # "07+12" and the 2007 test set: 3 GB
python scripts/download_voc.py DIR --split trainval2007 --split test2007
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from fetch import Archive, run

BASE_URL = "https://thor.robots.ox.ac.uk/pascal/VOC"


class Split(str, Enum):
    trainval2007 = "trainval2007"
    test2007 = "test2007"
    trainval2012 = "trainval2012"


# MD5 as torchvision publishes them with its VOC data sets.
ARCHIVES = {
    Split.trainval2007: Archive("voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
    Split.test2007: Archive("voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    Split.trainval2012: Archive("voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),
}


def main(
    target_dir: Annotated[Path, typer.Argument(metavar="DIR", help="Made if missing.")],
    split: Annotated[list[Split] | None, typer.Option(help="May be repeated; all by default.")] = None,
    base_url: Annotated[str, typer.Option(help="The server, or a mirror with the same paths.")] = BASE_URL,
) -> None:
    """Fetch VOC into DIR: VOCdevkit/VOC2007, VOCdevkit/VOC2012."""
    raise typer.Exit(run([ARCHIVES[chosen] for chosen in split or Split], base_url, target_dir))


if __name__ == "__main__":
    typer.run(main)
