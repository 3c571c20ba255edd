"""The annotation formats that there are. A new one is a module, and a line here."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from ssdlite.data.formats.base import Format, Source
from ssdlite.data.formats.coco import CocoFormat
from ssdlite.data.formats.create_ml import CreateMlFormat
from ssdlite.data.formats.csv_boxes import CsvFormat
from ssdlite.data.formats.cvat import CvatFormat
from ssdlite.data.formats.labelme import LabelMeFormat
from ssdlite.data.formats.open_images import OpenImagesFormat
from ssdlite.data.formats.via import ViaFormat
from ssdlite.data.formats.voc import VocFormat
from ssdlite.data.formats.voc_xml import VocXmlFormat
from ssdlite.data.formats.yolo import YoloFormat

FORMATS: tuple[Format[Any], ...] = (
    CocoFormat(),
    VocFormat(),
    VocXmlFormat(),
    CvatFormat(),
    LabelMeFormat(),
    ViaFormat(),
    CreateMlFormat(),
    YoloFormat(),
    OpenImagesFormat(),
    CsvFormat(),
)
"""Formats in the order in which they are asked about a path: the first that recognises it has it, so that of
several descriptions of the same images the richer one is read."""


def format_of(source: Source) -> Format[Any]:
    """Return the format of a source."""
    return next(one for one in FORMATS if one.source_type is type(source))


def source_from_options(kind: str, **options: Any) -> Source:
    """Return the source of format `kind` whose fields are `options`, where lists stand for tuples."""
    source_type = next(one for one in FORMATS if one.name == kind).source_type
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return source_type(**values)


def options_of_source(source: Source) -> dict[str, Any]:
    """Return what describes `source` in a config: `kind` and its fields, of plain types."""
    values = {field.name: getattr(source, field.name) for field in fields(source)}
    plain = {name: [*value] if isinstance(value, tuple) else value for name, value in values.items()}
    texts = {name: str(value) for name, value in values.items() if isinstance(value, Path)}
    return {"kind": format_of(source).name, **plain, **texts}
