"""The loop on a network of one layer: what it saves, when it stops, how it resumes."""

import json
import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from ssdlite.data.loader import SeededSampler
from ssdlite.errors import UserError
from ssdlite.structures import Batch, HeadOutput
from ssdlite.training import loop
from ssdlite.training.checkpoint import has_newest, load_checkpoint, load_newest
from ssdlite.training.loggers import Logbook
from ssdlite.training.loop import Trainer
from ssdlite.training.optim import WeightAverage, build_schedule, build_sgd
from ssdlite.training.step import TrainStep


class Pixels:
    """Ten one-colour images; item `index` with its seed, as the sampler asks."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, float]:
        index, seed = key
        return index, (seed % 97) / 97


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, images: torch.Tensor) -> HeadOutput:
        logits = self.layer(images.float() / 255).flatten(2).transpose(1, 2)
        return HeadOutput(logits, logits.new_zeros(len(images), 4, 4), torch.ones(4, 4))


class Loss(nn.Module):
    def __init__(self, poison_at: int = -1) -> None:
        super().__init__()
        self.calls, self.poison_at = 0, poison_at

    def forward(self, output, boxes, labels, ignore):
        self.calls += 1
        loss = (output.logits - 1).square().mean()
        return {"only": loss * float("nan") if self.calls == self.poison_at else loss}


def collate(items) -> Batch:
    images = torch.stack([torch.full((3, 2, 2), value * 255).to(torch.uint8) for _, value in items])
    empty = torch.zeros(len(items), 1)
    return Batch(
        images,
        empty[..., None].expand(-1, -1, 4),
        empty.long(),
        empty.bool(),
        [f"image{i}" for i, _ in items],
        [(2, 2)] * len(items),
        [i for i, _ in items],
    )


def make_trainer(run_dir, epochs=3, criterion=None, validate=None, logbook=None, **options) -> Trainer:
    net = Net()
    loader = DataLoader(
        Pixels(), batch_size=2, sampler=SeededSampler(10, seed=3), collate_fn=collate, drop_last=True
    )
    optimizer = build_sgd(net, lr=0.1, momentum=0.9, weight_decay=1e-4)
    step = TrainStep(
        model=net,
        criterion=criterion or Loss(),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, total_steps=15, warmup_steps=3),
        ema=WeightAverage(net, 0.9),
        device=torch.device("cpu"),
        dtype=torch.float32,
        clip_norm=10.0,
    )
    return Trainer(
        step=step,
        loader=loader,
        validate=validate or (lambda model, step: {"AP": step / 100}),
        run_dir=run_dir,
        header={"config": {}, "classes": ["thing"]},
        epochs=epochs,
        log_interval=2,
        val_interval=2,
        logbook=logbook,
        **options,
    )


def test_it_learns_logs_and_saves(tmp_path):
    with Logbook(tmp_path) as logbook:
        trainer = make_trainer(tmp_path, logbook=logbook)
        before = trainer.step.criterion(trainer.step.model(torch.full((1, 3, 2, 2), 128)), None, None, None)[
            "only"
        ].item()
        assert trainer.run() is True
    after = trainer.step.criterion(trainer.step.model(torch.full((1, 3, 2, 2), 128)), None, None, None)[
        "only"
    ].item()
    assert after < before / 5
    assert (trainer.progress.epoch, trainer.progress.step) == (3, 15)
    best, last = load_checkpoint(tmp_path / "best.pt"), load_checkpoint(tmp_path / "last.pt")
    assert best["metrics"] == {"AP": 0.15} and "training" not in best
    assert last["training"]["progress"] == {
        **{"epoch": 3, "batch": 0, "step": 15},
        **{"best_ap": 0.15, "skipped": 0},
    }
    for key, value in trainer.step.ema.module.state_dict().items():
        assert best["weights"][key].equal(value)


def test_the_best_validation_is_kept(tmp_path):
    figures = {10: {"AP": 0.5}, 15: {"AP": 0.4}}
    with Logbook(tmp_path) as logbook:
        make_trainer(tmp_path, validate=lambda model, step: figures[step], logbook=logbook).run()
    assert load_checkpoint(tmp_path / "best.pt")["metrics"] == {"AP": 0.5}


def test_without_an_ap_the_latest_weights_are_kept(tmp_path):
    figures = {10: {"n": 1}, 15: {"n": 2}}
    with Logbook(tmp_path) as logbook:
        trainer = make_trainer(tmp_path, validate=lambda model, step: figures[step], logbook=logbook)
        trainer.run()
    assert load_checkpoint(tmp_path / "best.pt")["metrics"]["n"] == 2
    assert trainer.progress.best_ap == -1


@pytest.mark.parametrize("stop_at", [1, 5, 7, 14, 15])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_a_resumed_run_ends_with_the_same_weights(tmp_path, stop_at, number):
    whole = make_trainer(tmp_path / "whole")
    whole.run()
    before = signal.getsignal(number)
    first = make_trainer(tmp_path / "parts")
    first.on_step = lambda progress, loss: os.kill(os.getpid(), number) if progress.step + 1 == stop_at else None
    assert first.run() is False
    assert signal.getsignal(number) == before  # ours is gone
    second = make_trainer(tmp_path / "parts")
    second.restore(load_checkpoint(tmp_path / "parts" / "last.pt"))
    assert second.progress.step == stop_at
    assert second.run() is True
    for key, value in whole.step.model.state_dict().items():
        assert second.step.model.state_dict()[key].equal(value), key
    for key, value in whole.step.ema.module.state_dict().items():
        assert second.step.ema.module.state_dict()[key].equal(value), key
    assert second.step.ema.num_updates == whole.step.ema.num_updates == 15


def test_a_loss_that_is_no_number_names_its_images_and_spoils_nothing(tmp_path):
    trainer = make_trainer(tmp_path, criterion=Loss(poison_at=7))
    sentence = r"step 7: the loss became nan on images image\d, image\d\. Likely: "
    with pytest.raises(UserError, match=sentence) as failure:
        trainer.run()
    assert all(value.isfinite().all() for value in trainer.step.model.state_dict().values())
    assert load_checkpoint(tmp_path / "last.pt")["training"]["progress"]["step"] == 5  # the last whole epoch
    folder = tmp_path / "nonfinite-000007"
    assert str(folder) in str(failure.value)
    report = json.loads((folder / "report.json").read_text())
    assert (report["step"], report["loss"]) == (7, "nan")
    assert [image["image_id"] in str(failure.value) for image in report["images"]] == [True, True]
    saved = torch.load(folder / "batch.pt", weights_only=True)
    assert [f"image{index}" for index in saved["indices"]] == saved["image_ids"]
    assert (folder / "images.jpg").stat().st_size > 0


def test_a_step_may_be_left_out_instead(tmp_path, caplog):
    with Logbook(tmp_path) as logbook:
        trainer = make_trainer(tmp_path, criterion=Loss(poison_at=3), on_nonfinite="skip", logbook=logbook)
        with caplog.at_level("WARNING", "ssdlite"):
            assert trainer.run() is True
    (record,) = caplog.records
    assert record.getMessage().startswith("step 3: the loss became nan on images image")
    assert record.getMessage().endswith("the step is left out (1 of at most 20)")
    assert load_checkpoint(tmp_path / "last.pt")["training"]["progress"]["skipped"] == 1
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert all(isinstance(loss, float) for loss in losses)  # the mean of the others


class AlwaysNan(Loss):
    def forward(self, output, boxes, labels, ignore):
        return {"only": (output.logits * float("nan")).mean()}


def test_too_many_left_out_steps_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MAX_SKIPPED", 4)
    trainer = make_trainer(tmp_path, criterion=AlwaysNan(), on_nonfinite="skip")
    with pytest.raises(UserError, match=r"step 5: the loss became nan .* alone gives a only loss of nan"):
        trainer.run()


class Killed(Exception):
    """In place of SIGKILL: nothing of the run goes on."""


def losses_of(run_dir) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["only"]) for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("save_interval", [0, 1, 3])
@pytest.mark.parametrize("kill_at", [2, 5, 6, 8, 13])
def test_a_killed_run_ends_with_the_same_weights_and_the_same_log(tmp_path, save_interval, kill_at):
    with Logbook(tmp_path / "whole") as logbook:
        whole = make_trainer(tmp_path / "whole", logbook=logbook)
        whole.run()

    def kill(progress, loss):
        if progress.step + 1 == kill_at:
            raise Killed

    with Logbook(tmp_path / "parts") as logbook, pytest.raises(Killed):
        make_trainer(tmp_path / "parts", logbook=logbook, save_interval=save_interval, keep=2, on_step=kill).run()
    second = make_trainer(tmp_path / "parts", save_interval=save_interval, keep=2)
    lines = 0
    if has_newest(tmp_path / "parts"):
        checkpoint = load_newest(tmp_path / "parts")
        second.restore(checkpoint)
        lines = checkpoint["training"]["log_lines"]
    assert kill_at - 1 - second.progress.step < (save_interval or 5)
    with Logbook(tmp_path / "parts", purge_step=second.progress.step + 1, keep_lines=lines) as second.logbook:
        assert second.run() is True
    for key, value in whole.step.model.state_dict().items():
        assert second.step.model.state_dict()[key].equal(value), key
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")


def test_replaced_images_are_reported_once_and_not_without_end(tmp_path, caplog):
    trainer = make_trainer(tmp_path)
    with caplog.at_level("WARNING", "ssdlite"):
        trainer._report_problems(["a.jpg: gone", "b.jpg: gone"])
        trainer._report_problems(["a.jpg: gone"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}.jpg: gone; another image is in its place from now on" for name in "ab"
    ]
    with pytest.raises(UserError, match="more than 10 images cannot be read"):
        trainer._report_problems([f"{number}.jpg: gone" for number in range(9)])


def test_a_validation_that_fails_leaves_what_was_trained(tmp_path):
    def fail(model, step):
        raise UserError("no such image")

    with pytest.raises(UserError, match="no such image"):
        make_trainer(tmp_path, validate=fail).run()
    second = make_trainer(tmp_path)
    second.restore(load_newest(tmp_path))
    assert second.progress.step == 10
    seen = []
    second.validate = lambda model, step: seen.append(step) or {"AP": 0.1}
    assert second.run() is True
    assert seen == [10, 15]  # the one that failed, and the last
