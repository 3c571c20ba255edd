"""CSV files with one box per line and those of Open Images: their images, and lines in problems."""

from __future__ import annotations

import pytest

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.registry import format_of, source_from_options
from ssdlite.errors import DataError

from .sets import read_train, rows_of, write, write_images

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
OPEN_IMAGES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"


def names_of(sources) -> list[str]:
    """Return the images of some sources, relative to their folder of images."""
    (source,) = sources
    return [record.image_path.relative_to(source.images).as_posix() for record in read_split(sources).records]


@pytest.mark.parametrize("side", ["9" * 5000, "0", "-60", "60.5", "inf", "nan", "sixty", "", "²", "1_0"])
def test_a_size_that_is_none_is_that_of_the_image(tmp_path, side):
    write_images(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "boxes.csv", f"{HEADER}a.jpg,{side},40,cat,1,2,3,4\nb.jpg,60,{side},cat,1,2,3,4\n")
    assert [record.size for record in read_train(tmp_path).records] == [(40, 60)] * 2


def test_a_size_is_taken_as_written(tmp_path):
    """Also as pandas writes whole numbers of a column with gaps; both are of the stored form of the image."""
    write_images(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "boxes.csv", f"{HEADER}a.jpg,60.0,40.0,cat,1,2,3,4\nb.jpg,30,20,cat,1,2,3,4\n")
    problems = Problems()
    source = source_from_options("csv", file=tmp_path / "boxes.csv", images=tmp_path)
    assert format_of(source).read(source, problems).sizes.tolist() == [[40, 60], [20, 30]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_found_in_the_encodings_that_are_read(tmp_path, encoding):
    write_images(tmp_path, "é.jpg")
    write(tmp_path / "boxes.csv", f"{HEADER}é.jpg,60,40,naïve,1,2,3,4\n".encode(encoding))
    assert rows_of(read_train(tmp_path)) == {"é.jpg": [("naïve", [1, 2, 3, 4])]}


def test_images_of_one_name_are_those_of_the_split(tmp_path):
    """The file is beside the folders of the splits, and says no more than 1.jpg."""
    for split, number in (("train", 1), ("test", 5)):
        write_images(tmp_path / "images" / split, "1.jpg", "2.jpg")
        rows = "".join(f"{name}.jpg,60,40,cat,{number},2,{number + 2},4\n" for name in (1, 2))
        write(tmp_path / f"images/{split}_labels.csv", HEADER + rows)
    layout = find_layout(tmp_path)
    for split, sources in (("train", layout.train), ("test", layout.val)):
        assert {record.image_path.parent.name for record in read_split(sources).records} == {split}


def test_folders_tell_images_of_one_name_apart_where_one_is_not_there(tmp_path, caplog):
    """Boxes of cam2/1.jpg do not go to cam1/1.jpg, nor those of 3.png to 3.jpg, though it is the only one left."""
    write_images(tmp_path, "cam1/1.jpg", "cam1/2.jpg", "3.jpg")
    rows = ["/d/cam2/1.jpg,9,9,19,19", "/d/cam1/1.jpg,1,2,3,4", "/d/cam1/2.jpg,1,2,3,4"]
    rows += ["3.png,9,9,19,19", "3.jpg,1,2,3,4"]
    write(tmp_path / "boxes.csv", "".join(f"{row},cat\n" for row in rows))
    box = [("cat", [1, 2, 3, 4])]
    assert rows_of(read_train(tmp_path)) == {"1.jpg": box, "2.jpg": box, "3.jpg": box}
    assert "left out 2 images whose file is not there: /d/cam2/1.jpg; 3.png" in caplog.text


@pytest.mark.parametrize("other", ["D:\\\\x\\\\a.jpg", "/home/b/a.jpg", "./a.jpg", "a.jpg"])
def test_one_image_by_the_paths_of_two_machines(tmp_path, other):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "boxes.csv", f"/home/a/a.jpg,1,2,3,4,cat\n{other},5,6,7,8,cat\n")
    assert rows_of(read_train(tmp_path)) == {"a.jpg": [("cat", [1, 2, 3, 4]), ("cat", [5, 6, 7, 8])]}


def test_another_spelling_is_taken_and_counted(tmp_path, caplog):
    write_images(tmp_path, "A.JPG", "b.jpg", "c.jpg")
    write(tmp_path / "boxes.csv", "".join(f"{name},1,2,3,4,cat\n" for name in ("a.jpg", "b.png", "c.jpg", "a.jpg")))
    assert {name: len(rows) for name, rows in rows_of(read_train(tmp_path)).items()} == {
        "A.JPG": 2,
        "b.jpg": 1,
        "c.jpg": 1,
    }
    assert "found 2 images under another spelling or in another folder: a.jpg; b.png" in caplog.text


def test_a_few_images_of_the_same_name_do_not_make_a_stray_file_win(tmp_path):
    """The YOLO labels of the two images are read, not the list of twenty others."""
    write_images(tmp_path, "1.jpg", "2.jpg")
    rows = "".join(f'<image name="{number}.jpg" width="60" height="40"/>' for number in range(2, 22))
    write(tmp_path / "annotations.xml", f"<annotations>{rows}</annotations>")
    write(tmp_path / "classes.txt", "cat\n")
    write(tmp_path / "1.txt", "0 0.5 0.5 0.5 0.5\n")
    assert rows_of(read_train(tmp_path)) == {"1.jpg": [("cat", [15, 10, 45, 30])], "2.jpg": []}


def test_a_file_that_is_named_says_that_its_images_are_elsewhere(tmp_path):
    write_images(tmp_path / "shots", "a.jpg")
    path = write(tmp_path / "lists/boxes.csv", f"{HEADER}a.jpg,60,40,cat,1,2,3,4\n")
    with pytest.raises(DataError) as caught:
        find_layout(path)
    assert str(caught.value) == (
        f"{path}: it is of the format CSV, but its images were not found; name their folder: "
        f"'data.train={{kind: csv, file: {path}, images: FOLDER}}'"
    )


def test_of_two_files_about_the_same_images_one_is_read_and_the_other_named(tmp_path):
    """The larger one; files about different images are read together."""
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write(tmp_path / "all.csv", f"{HEADER}a.jpg,60,40,cat,1,2,3,4\nb.jpg,60,40,cat,1,2,3,4\n")
    write(tmp_path / "again.csv", "a.jpg,1,2,3,4,cat\n")
    write(tmp_path / "others.csv", "c.jpg,1,2,3,4,cat\n")
    layout = find_layout(tmp_path)
    assert [source.file.name for source in layout.train] == ["all.csv", "others.csv"]
    assert "again.csv describes images of all.csv as well, and is not read" in layout.description
    assert {name: len(rows) for name, rows in rows_of(read_split(layout.train)).items()} == {
        "a.jpg": 1,
        "b.jpg": 1,
        "c.jpg": 1,
    }


def test_the_downloaded_part_of_open_images_is_read_before_the_whole(tmp_path):
    """jetson-inference's downloader leaves both; most images of the whole list were not fetched."""
    write_images(tmp_path / "train", "0a.jpg")
    whole = "".join(f"{name},x,/m/1,1,0.25,0.75,0.25,0.75,0,0,0\n" for name in ("0a", "0b", "0c"))
    write(tmp_path / "train-annotations-bbox.csv", f"{OPEN_IMAGES}\n{whole}")
    write(
        tmp_path / "sub-train-annotations-bbox.csv",
        f"{OPEN_IMAGES},id,ClassName\n0a,x,/m/1,1,0.25,0.75,0.25,0.75,0,0,1,/m/1,Cat\n",
    )
    split = read_train(tmp_path)
    assert rows_of(split) == {"0a.jpg": [("Cat", [15, 10, 45, 30])]}
    assert split.records[0].crowd.tolist() == [True]


@pytest.mark.parametrize("kind", ["csv", "openimages"])
def test_problems_of_boxes_name_their_line(tmp_path, kind):
    write_images(tmp_path, "a.jpg")
    texts = {
        "csv": f"{HEADER}a.jpg,60,40,cat,1,2,3,4\n\na.jpg,60,40,cat,30,5,30,9\n",
        "openimages": f"{OPEN_IMAGES}\na,x,cat,1,0,1,0,1,0,0,0\n\na,x,cat,1,0.5,0.5,0.125,0.25,0,0,0\n",
    }
    path = write(tmp_path / "boxes.csv", texts[kind])
    source = source_from_options(kind, file=path, images=tmp_path)
    found = format_of(source).read(source, Problems())
    assert [found.name_object(index) for index in (0, 1)] == ["line 2 (cat) of a.jpg", "line 4 (cat) of a.jpg"]
