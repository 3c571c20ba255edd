"""`ssdlite download`: pretrained weights and data sets, ahead of time."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from ssdlite.errors import ConfigError
from ssdlite.fetch.archives import Archive, fetch_archives

# Plain http: the certificate of this host is another's.
COCO_URL = "http://images.cocodataset.org"


COCO_SPLITS = ("train2017", "val2017")


VOC_URL = "https://thor.robots.ox.ac.uk/pascal/VOC"


# MD5 as torchvision publishes them with its VOC data sets.
VOC_ARCHIVES = {
    "trainval2007": Archive("voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
    "test2007": Archive("voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    "trainval2012": Archive("voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),
}


def download_weights(name: str) -> None:
    """Fetch the pretrained network `name`, if it is not there yet, and say where it is. Raises FetchError."""
    from ssdlite.commands.console import console
    from ssdlite.importers.pretrained import fetch_weights, imagenet_state, license_path

    if name == "imagenet":
        _, origin = imagenet_state()
        console.print(f"imagenet: there, from {origin}; model.weights=imagenet starts from it.")
        return
    path = fetch_weights(name)
    console.print(f"{name}: {path}; its licence is {license_path(name).name} beside it.")


def fetch_coco(target_dir: Path, splits: Sequence[str], base_url: str | None = None) -> None:
    """Fetch COCO 2017 into `target_dir`: annotations/instances_*.json, train2017/, val2017/.

    COCO publishes no checksums. A file is taken for whole when it has the size that the server announced, and every
    byte is checked against the zip's own CRC on unpacking. Raises FetchError.
    """
    names = _chosen(splits, COCO_SPLITS)
    # Only what belongs to the images: annotations without images are an error when training starts.
    members = tuple(f"annotations/instances_{name}.json" for name in names)
    annotations = Archive("annotations/annotations_trainval2017.zip", members=members)
    _fetch([annotations, *(Archive(f"zips/{name}.zip") for name in names)], base_url or COCO_URL, target_dir)


def fetch_voc(target_dir: Path, splits: Sequence[str], base_url: str | None = None) -> None:
    """Fetch VOC into `target_dir`: VOCdevkit/VOC2007, VOCdevkit/VOC2012. Raises FetchError."""
    archives = [VOC_ARCHIVES[name] for name in _chosen(splits, VOC_ARCHIVES)]
    _fetch(archives, base_url or VOC_URL, target_dir)


def _chosen(splits: Sequence[str], known: Sequence[str] | Mapping[str, Archive]) -> list[str]:
    for name in splits:
        if name not in known:
            raise ConfigError(f"--split is {', '.join(known)}, not '{name}'.")
    return [*(splits or known)]


def _fetch(archives: list[Archive], base_url: str, target_dir: Path) -> None:
    try:
        fetch_archives(archives, base_url, target_dir)
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(130) from None
