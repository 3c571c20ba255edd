"""VOC's XML files without VOC's lists: beside the images, or in a folder of their own, as labelling tools leave
them.

Start with `VocXmlFormat`. Each XML file belongs to the image with its stem, and only where there is none to the one
that its <filename> names. An image without an XML file is left out, with a count. Corners are coordinates of the
image, as labelling tools write them, and not the devkit's numbers of pixels from 1 (see `voc`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ssdlite.data.formats.base import Annotations, Format, Found, require_folder
from ssdlite.data.formats.folders import (
    IMAGE_SUFFIXES,
    ImageIndex,
    Seen,
    child,
    has_suffix,
    list_files,
    split_folders,
    subfolders,
    walk_files,
)
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.voc import XmlReader
from ssdlite.errors import DataError

IMAGE_FOLDERS = ("images", "jpegimages", "imgs", "img", "image")


XML_FOLDERS = ("annotations", "annots", "xmls", "labels", "annotation", "xml", "anns")


GLANCE = 5  # files that are opened to see whether they are VOC's


@dataclass(frozen=True)
class VocXmlSource:
    """VOC's XML files in one folder and their images in another or the same, without lists."""

    images: Path
    annotations: Path

    def __str__(self) -> str:
        return str(self.annotations)


class VocXmlFormat(Format[VocXmlSource]):
    """XML files of VOC without lists."""

    name = "voc-xml"
    looked_for = "VOC's .xml files beside the images, or in annotations/ beside images/ (VOC without lists)"
    source_type = VocXmlSource

    def find(self, path: Path) -> Found | None:
        if not path.is_dir() or list_files(path / "ImageSets" / "Main", (".txt",)):  # VOC's own lists decide
            return None
        splits = {split: source for split, folder in split_folders(path).items() if (source := _at(folder))}
        images, annotations = child(path, IMAGE_FOLDERS), child(path, XML_FOLDERS)
        if not splits and annotations is not None:
            image_splits = split_folders(images) if images else {}
            for split, folder in split_folders(annotations).items():
                if _holds_xml(folder):
                    splits[split] = VocXmlSource(image_splits.get(split, images or path), folder)
        if splits:
            train, val, test = ([splits[split]] if split in splits else [] for split in ("train", "val", "test"))
            return Found("VOC XML", train, val or test, test)
        source = _at(path)
        return Found("VOC XML", [source], []) if source else None

    def require(self, source: VocXmlSource) -> None:
        for folder in (source.images, source.annotations):
            require_folder(folder)

    def read(self, source: VocXmlSource, problems: Problems) -> Annotations:
        found = Annotations(source, source.annotations)
        with problems.catch("image-folder-missing", source.images):
            try:
                images = ImageIndex([source.images])
                xml_paths = walk_files(source.annotations, (".xml",))
            except OSError as error:
                raise DataError(f"{source.images}: the folder cannot be listed ({error.strerror})") from error
            reader = XmlReader(found, images, str(source.images), problems)
            for xml_path in xml_paths:
                reader.read(xml_path, xml_path.relative_to(source.annotations).with_suffix("").as_posix())
            reader.finish()
            for path in images.paths:
                if path not in reader.used:
                    text = "there is no annotation of this image, so it is left out"
                    problems.add("annotation-missing", path, text, item=path.name)
        return found

    def explain(self, seen: Seen) -> tuple[int, str] | None:
        first = seen.first_of(".xml")
        if first is None:
            return None
        if not _is_voc([first]):
            return 1, f"{first.name} is not VOC's XML, whose outermost tag is <annotation>"
        text = (
            f"the .xml files look like VOC's, but no images lie beside them, in images/ or in JPEGImages/; name "
            f"both folders: 'data.train={{kind: {self.name}, images: FOLDER, annotations: {first.parent}}}'"
        )
        return seen.num(".xml"), text


def _at(folder: Path) -> VocXmlSource | None:
    """The source in one folder: XML files in it, or in a folder for them."""
    images, annotations = child(folder, IMAGE_FOLDERS), child(folder, XML_FOLDERS)
    for images_dir, xml_dir in (
        (folder, folder),
        (images or folder, annotations),
        (images or folder, folder),
        (images, images),
    ):
        if xml_dir is not None and images_dir is not None and _holds_xml(xml_dir) and _holds_images(images_dir):
            return VocXmlSource(images_dir, xml_dir)
    # Folders of any name, where there is just one with XML files and one with images.
    inner = subfolders(folder)
    xml_dirs = [each for each in inner if _holds_xml(each)]
    image_dirs = [each for each in inner if has_suffix(each, IMAGE_SUFFIXES)]
    if len(xml_dirs) == len(image_dirs) == 1 and xml_dirs != image_dirs:
        return VocXmlSource(image_dirs[0], xml_dirs[0])
    return None


def _holds_images(folder: Path) -> bool:
    return has_suffix(folder, IMAGE_SUFFIXES) or bool(split_folders(folder))


def _holds_xml(folder: Path) -> bool:
    return has_suffix(folder, (".xml",)) and _is_voc(list_files(folder, (".xml",)))


def _is_voc(paths: Iterable[Path]) -> bool:
    """Return whether one of the first files begins as VOC's do."""
    for path in islice(paths, GLANCE):
        try:
            with path.open("rb") as file:
                start = file.read(2000)
        except OSError:
            continue
        if b"<annotation>" in start or b"<annotation " in start or b"<\0a\0n\0n\0o\0t\0a\0t\0i\0o\0n\0>" in start:
            return True
    return False
