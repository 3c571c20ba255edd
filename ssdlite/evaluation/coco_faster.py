"""One class evaluated by faster-coco-eval, whose loops run in C++. Importing this file needs that package.

It follows pycocotools step by step and gives the same figures; `coco_curves.load_faster` asks it whether it does.
"""

from __future__ import annotations

from typing import Any, Literal

from faster_coco_eval import COCOeval_faster


class FasterClassEval(COCOeval_faster):
    """COCOeval_faster fed from memory; what `coco_curves.PycocotoolsClassEval` is to pycocotools.

    `_prepare` is replaced because the original overwrites `ignore` with `iscrowd`. The C++ that reads the
    annotations afterwards keeps the two apart.
    """

    truths: list[dict[str, Any]]
    found: list[dict[str, Any]]

    def __init__(self, iouType: Literal["bbox"]) -> None:
        super().__init__(iouType=iouType, print_function=lambda *_: None)  # it would log six lines a class

    def _prepare(self) -> None:
        (category,) = self.params.catIds
        for dataset, rows in ((self.gt_dataset, self.truths), (self.dt_dataset, self.found)):
            dataset.clean()
            for row in rows:
                dataset.append_ref(row["image"], category, row)
        both = {row["image"] for row in self.truths} & {row["image"] for row in self.found}
        self._nonempty_iou_pairs = {(image, category) for image in both}  # the library skips the others
