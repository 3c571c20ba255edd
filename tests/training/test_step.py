"""One step: parts of a batch are as good as the whole, compiled is as eager, and a GPU is not waited for."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ssdlite.losses.matching import assign_iou
from ssdlite.losses.recipes import Criterion, MultiboxLoss
from ssdlite.models.detector import Detector
from ssdlite.models.variants import DIALECTS
from ssdlite.structures import Batch
from ssdlite.training import nonfinite, optim
from ssdlite.training.optim import WeightAverage, build_schedule, build_sgd
from ssdlite.training.step import TrainStep, on_device, split_batch

CPU = torch.device("cpu")


def make_detector(device=CPU) -> Detector:
    torch.manual_seed(0)
    with torch.device(device):
        return Detector(DIALECTS["paper"], num_classes=3, input_size=(96, 96), width=0.25)


def make_step(device=CPU, dtype=torch.float32, freeze=(), **options) -> TrainStep:
    detector = make_detector(device)
    detector.freeze(freeze)
    detector.train()
    optimizer = build_sgd(detector, lr=0.01, momentum=0.9, weight_decay=1e-4)
    return TrainStep(
        model=detector,
        criterion=Criterion(assign_iou, MultiboxLoss()).to(device),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, total_steps=10, warmup_steps=1),
        ema=WeightAverage(detector, 0.9),
        device=device,
        dtype=dtype,
        clip_norm=10.0,
        **options,
    )


def make_batch(images: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    corners = torch.randint(0, 40, (images, 2, 2), generator=generator).float()
    sizes = torch.randint(20, 56, (images, 2, 2), generator=generator)
    return Batch(
        images=torch.randint(0, 256, (images, 3, 96, 96), dtype=torch.uint8, generator=generator),
        boxes=torch.cat([corners, corners + sizes], dim=-1),
        labels=torch.tensor([[1, 2]] * images),
        ignore=torch.zeros(images, 2, dtype=torch.bool),
        image_ids=list(range(images)),
        original_sizes=[(96, 96)] * images,
        indices=list(range(images)),
    )


def take(step: TrainStep, batch: Batch) -> torch.Tensor:
    """One step -> whether it was left out."""
    return step.update(sum(step.gradients(batch).values()))


def gradients(step: TrainStep) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in step.model.named_parameters() if p.grad is not None}


def test_the_parts_of_a_batch_are_the_batch():
    batch = make_batch(7)
    parts = split_batch(batch, 3)
    assert [part.image_ids for part in parts] == [[0, 1], [2, 3], [4, 5, 6]]
    assert torch.cat([part.images for part in parts]).equal(batch.images)
    assert [part.image_ids for part in split_batch(make_batch(2), 5)] == [[0], [1]]


def test_accumulated_gradients_are_the_mean_of_those_of_the_parts():
    """With frozen norms, so that images do not see each other: each part by itself, weighted by its images."""
    batch = make_batch(3)
    whole = make_step(freeze=["norms"], accumulate=2)
    terms = whole.gradients(batch)
    expected, expected_terms = {}, {}
    for part, share in zip(split_batch(batch, 2), (1 / 3, 2 / 3), strict=True):
        alone = make_step(freeze=["norms"])
        for name, term in alone.gradients(part).items():
            expected_terms[name] = expected_terms.get(name, 0) + term * share
        for name, gradient in gradients(alone).items():
            expected[name] = expected.get(name, 0) + gradient * share
    found = gradients(whole)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected_terms[name])


def test_an_update_uses_the_gradients_up_and_moves_weights_and_average():
    step = make_step()
    before = {name: value.clone() for name, value in step.model.named_parameters()}
    for _ in range(2):
        take(step, make_batch())
    assert not gradients(step)
    assert any(not value.equal(before[name]) for name, value in step.model.named_parameters())
    assert step.ema is not None and step.ema.num_updates == 2


@pytest.mark.parametrize("make_nonfinite", ["gradient", "loss"])
@pytest.mark.parametrize("when", [0, 1])
@pytest.mark.parametrize("fused", [True, False])
def test_what_is_not_finite_never_reaches_the_weights(make_nonfinite, when, fused):
    """At the first step too, where PyTorch's fused SGD would leave its momentum uninitialised."""
    step = make_step()
    for options in (step.optimizer.defaults, *step.optimizer.param_groups):
        options["fused"] = fused
    for number in range(3):
        if number == when:
            before = {name: value.clone() for name, value in step.model.named_parameters()}
            loss = sum(step.gradients(make_batch()).values())
            if make_nonfinite == "gradient":
                next(step.model.parameters()).grad.view(-1)[0] = torch.inf
            assert step.update(loss * float("nan") if make_nonfinite == "loss" else loss)
            assert all(value.equal(before[name]) for name, value in step.model.named_parameters())
        else:
            assert not take(step, make_batch())
    assert all(value.isfinite().all() for value in step.model.state_dict().values())
    momentum = [state["momentum_buffer"] for state in step.optimizer.state.values()]
    assert momentum and all(buffer.isfinite().all() and buffer.abs().max() < 1e3 for buffer in momentum)


def test_what_the_norms_gather_in_a_step_that_is_left_out_is_forgotten():
    """An activation that overflows makes running means of NaN, which no later step would mend."""
    step = make_step()
    take(step, make_batch())
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    conv = next(module for module in step.model.modules() if isinstance(module, torch.nn.Conv2d))
    hook = conv.register_forward_hook(lambda module, inputs, output: output * float("inf"))
    assert take(step, make_batch())
    hook.remove()
    assert all(value.equal(before[name]) for name, value in step.model.state_dict().items())
    assert not take(step, make_batch())
    assert all(value.isfinite().all() for value in step.ema.module.state_dict().values())


def test_state_continues_bit_for_bit():
    whole, first, second = make_step(), make_step(), make_step()
    for _ in range(4):
        take(whole, make_batch())
    for _ in range(2):
        take(first, make_batch())
    assert first.ema is not None and second.ema is not None and whole.ema is not None
    second.load_state_dict(first.state_dict(), averaged=first.ema.module.state_dict())
    for _ in range(2):
        take(second, make_batch())
    for ours, theirs in ((second.model, whole.model), (second.ema.module, whole.ema.module)):
        expected = theirs.state_dict()
        assert all(value.equal(expected[name]) for name, value in ours.state_dict().items())


def test_nothing_in_a_step_looks_at_a_value(monkeypatch):
    """On tensors without values that say they lie on a GPU; whatever needs a value raises."""
    device = torch.device("cuda")
    monkeypatch.setattr(optim, "deepcopy", lambda model: make_detector(device))  # a copied fake tensor is of no use
    with FakeTensorMode():
        step = make_step(device)
        monkeypatch.setattr(
            step.optimizer, "step", lambda: None
        )  # the fused one needs a real GPU, like the backward
        batch = make_batch().to(device)
        for _ in range(2):
            terms = step.loss(step.forward(batch), batch)
            for parameter in step.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            step.update(sum(terms.values()))


@pytest.mark.parametrize(("device", "fused"), [("cpu", True), ("cuda", True), ("mps", False)])
def test_the_optimizer_is_fused_where_it_leaves_steps_out_by_itself(device, fused):
    with FakeTensorMode():
        layer = torch.nn.Linear(2, 2)
        layer.weight = torch.nn.Parameter(torch.empty(2, 2, device=device))
        assert build_sgd(layer, lr=0.1, momentum=0.0, weight_decay=0.0).defaults["fused"] is fused


def test_what_is_validated_is_not_compiled(monkeypatch):
    """It holds the output of one batch while the next is computed, which would overwrite that of a CUDA graph."""
    modes, calls = [], []

    class Compiled(torch.nn.Module):
        def __init__(self, network, mode):
            super().__init__()
            self.network = network
            modes.append(mode)

        def forward(self, images):
            calls.append(len(images))
            return self.network(images)

    monkeypatch.setattr(torch, "compile", Compiled)
    step, plain, batch = make_step(compile_mode="reduce-overhead"), make_step(), make_batch(4)
    assert step.gradients(batch) == plain.gradients(batch)
    assert modes == ["reduce-overhead"] and calls == [4]
    assert step.state_dict()["model"].keys() == plain.state_dict()["model"].keys()
    assert step.model._compiled_call_impl is None
    step.model.eval()(batch.images)
    nonfinite._assess(step, batch)
    assert calls == [4]


@pytest.mark.cuda
def test_a_gpu_is_never_waited_for():
    device = torch.device("cuda")
    step = make_step(device, torch.bfloat16)
    pinned = [make_batch().pin_memory() for _ in range(4)]
    batches = on_device(pinned, device)
    for _ in range(2):  # the first steps choose algorithms and allocate
        take(step, next(batches))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            take(step, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_prefetching_keeps_batches_and_order():
    batches = [make_batch(images) for images in (1, 2, 3)]
    moved = list(on_device(batches, CPU))
    assert [len(batch.images) for batch in moved] == [1, 2, 3]
    assert all(a.images.equal(b.images) for a, b in zip(moved, batches, strict=True))


@pytest.mark.cuda
def test_prefetching_to_a_gpu_keeps_batches_and_order():
    batches = [make_batch(images).pin_memory() for images in (1, 2, 3)]
    moved = list(on_device(batches, torch.device("cuda")))
    assert all(a.images.cpu().equal(b.images) for a, b in zip(moved, batches, strict=True))
