"""Evaluation: the network, decoding, a whole validation, and AP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssdlite import build
from ssdlite.benchmark.evaluation import judge, simulate_output
from ssdlite.benchmark.gpu.cases import make_batch, make_config, make_network, read_photos, usable_workers
from ssdlite.benchmark.gpu.tasks import Outcome, Row, Setting
from ssdlite.benchmark.timing import Timing, reading, synchronizer, take_turns
from ssdlite.benchmark.workload import prepare_process, repeated
from ssdlite.evaluation.evaluate import predict_split
from ssdlite.model.network import Network
from ssdlite.model.predictor import TorchPredictor
from ssdlite.structures import HeadOutput

PASSES = 7


class LearntScores(nn.Module):
    """A network whose scores are replaced by simulated ones, so that decoding has what it has after a training."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.logits: Tensor | None = None

    def forward(self, images: Tensor) -> HeadOutput:
        output = self.network(images)
        if self.logits is None or len(self.logits) < len(images):
            self.logits = simulate_output(output).logits
        return output._replace(logits=self.logits[: len(images)])


def measure_parts(setting: Setting) -> Outcome:
    """Network and decoding of resident batches."""
    batch_size, device = setting.sizes.eval_batch, setting.device
    config, predictor = _predictor(setting)
    batch = make_batch(config, setting, batch_size, 20, device)
    started = predictor.start(batch)
    synchronize = synchronizer(device)
    works = {
        "network": reading(lambda: predictor.start(batch), synchronize=synchronize),
        "decoding and suppression": reading(lambda: predictor.finish(started), synchronize=synchronize),
    }
    rows: list[Row] = []
    for name, readings in take_turns(works, warmup=2, runs=1 if setting.dry_run else PASSES).items():
        median = Timing.of(readings).median
        rows.append(_row(name, batch_size / median, median / batch_size, f"batch {batch_size}"))
    return Outcome(rows)


def measure_validation(setting: Setting, *, workers: int) -> Outcome:
    """From files and from the disk cache to detections, as a validation does it."""
    sizes, device = setting.sizes, setting.device
    photos = read_photos(setting, setting.scratch / "photos", sizes.photos)
    rows = []
    for source, options in (
        ("files", []),
        ("disk cache", ["data.cache=disk", f"data.cache_dir={setting.scratch / 'cache'}"]),
    ):
        config, predictor = _predictor(setting, *options)
        split = repeated(photos, sizes.validated)
        loader = build.build_loader(
            config,
            split,
            training=False,
            alignment=build.dialect_of(config.model).resize_alignment,
            device=device,
            workers=usable_workers(workers),
        )
        work = reading(lambda: predict_split(predictor, loader, len(split)), synchronize=synchronizer(device))  # noqa: B023  # called in this turn
        seconds = take_turns({"all": work}, warmup=1, runs=1)["all"][0]
        note = f"{workers} workers, batch {sizes.eval_batch}, {len(split)} images"
        rows.append(_row(f"validation from the {source}", len(split) / seconds, seconds / len(split), note))
    return Outcome(rows)


def measure_scoring(setting: Setting) -> Outcome:
    """AP of simulated detections."""
    judged = judge(setting.sizes.scored)
    note = f"{judged.images} images x 100 detections, 80 classes, {judged.backend}"
    return Outcome(
        [
            _row("COCO AP", judged.images / judged.coco_seconds, judged.coco_seconds / judged.images, note),
            _row("VOC AP", judged.images / judged.voc_seconds, judged.voc_seconds / judged.images, note),
        ]
    )


def _predictor(setting: Setting, *options: str):  # type: ignore[no-untyped-def]
    """(config, predictor with simulated scores)."""
    prepare_process(setting.device)
    config = make_config(setting, f"eval.batch_size={setting.sizes.eval_batch}", *options)
    network = make_network(config, setting, setting.device)
    decoder = build.build_decoder(config.eval, config.model.input_size)
    dtype = build.build_dtype(config.train.precision, setting.device)
    torch.manual_seed(0)
    return config, TorchPredictor(LearntScores(network), decoder, setting.device, dtype)


def _row(what: str, rate: float, seconds: float, note: str) -> Row:
    return {"what": what, "images/s": rate, "ms an image": 1e3 * seconds, "note": note}
