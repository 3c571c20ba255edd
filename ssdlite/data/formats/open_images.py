"""Open Images: CSV files of boxes in fractions of the image, as its downloaders (such as jetson-inference's) leave
them.

Start with `OpenImagesFormat`. See https://storage.googleapis.com/openimages/web/download_v7.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssdlite.data.formats.csv_boxes import LineAnnotations, first_rows, read_rows
from ssdlite.data.formats.folders import list_files
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.single_file import FileSource, ImageFinder, SingleFileFormat, finite
from ssdlite.data.records import check_class_name
from ssdlite.errors import DataError

SIDES = ("XMin", "YMin", "XMax", "YMax")


@dataclass(frozen=True)
class OpenImagesSource(FileSource):
    """A CSV file of Open Images, and the folder under which its images lie."""

    def __str__(self) -> str:
        return str(self.file)


class OpenImagesFormat(SingleFileFormat[OpenImagesSource]):
    """Boxes of Open Images."""

    name = "openimages"
    title = "Open Images"
    looked_for = "a .csv file of Open Images, such as sub-train-annotations-bbox.csv"
    suffixes = (".csv",)
    source_type = OpenImagesSource

    def first_images(self, file: Path, start: bytes) -> list[str] | None:
        header, *rows = first_rows(start) or [[]]
        if "ImageID" not in header or not set(SIDES) <= set(header):
            return None
        position = header.index("ImageID")
        return [row[position] for row in rows if len(row) > position]

    def choose(self, files: list[Path]) -> list[Path]:
        """jetson-inference leaves the list of a whole split beside the part whose images it fetched (sub-...)."""
        names = {file.name for file in files}
        return [file for file in files if f"sub-{file.name}" not in names]

    def read(self, source: OpenImagesSource, problems: Problems) -> LineAnnotations:
        """Groups (IsGroupOf) are crowds. Classes are sorted by name; codes such as /m/0fp6w are looked up
        beside."""
        from ssdlite.data.headers import read_header

        found = LineAnnotations(source, source.file)
        found.box_form = None
        with problems.catch("annotations-unreadable", source.file):
            rows = read_rows(source.file)
            _, header = next(rows, (0, []))
            position = {name: number for number, name in enumerate(header)}
            if not {"ImageID", *SIDES} <= position.keys() or not {"LabelName", "ClassName"} & position.keys():
                raise DataError(
                    f"{source.file}: its first line is not the header of Open Images; download it again"
                )
            class_names = _class_names(source.file)
            images = ImageFinder(found, problems)
            for number, row in rows:
                where = f"line {number}"
                with problems.catch("object-broken", source.file, where):
                    if len(row) < len(header):
                        raise DataError(
                            f"{source.file}: {where} has {len(row)} values where {len(header)} belong; correct it"
                        )
                    owner = images.add(row[position["ImageID"]])
                    if owner is None:
                        continue
                    if not all(found.size_of(owner)):
                        image = read_header(found.paths[owner])
                        if not image.usable:
                            continue
                        found.set_size(owner, (image.height, image.width))
                    height, width = found.size_of(owner)
                    code = row[position["LabelName"]] if "LabelName" in position else ""
                    given = row[position["ClassName"]] if "ClassName" in position else ""
                    name = given or class_names.get(code, code)
                    check_class_name(name, where, source.file)
                    x1, y1, x2, y2 = (
                        finite(row[position[side]], f"{where} has {side}", source.file) for side in SIDES
                    )
                    is_group = "IsGroupOf" in position and row[position["IsGroupOf"]] == "1"
                    box = (x1 * width, y1 * height, x2 * width, y2 * height)
                    label = found.label_of(name)
                    found.add_object(owner, label, box, position=number, ignore=is_group, crowd=is_group)
            images.finish()
        return found


def _class_names(file: Path) -> dict[str, str]:
    """Names by code, from the class descriptions beside a file or in the folder above."""
    for folder in (file.parent, file.parent.parent):
        for path in list_files(folder, (".csv",)):
            if "class-descriptions" in path.name:
                try:
                    return {row[0]: row[1] for _, row in read_rows(path) if len(row) > 1}
                except DataError:
                    return {}
    return {}
