"""Correctness on the GPU against the CPU: losses, network, decoding, augmentation, training step, commands."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing, nn

from ssdlite import boxes as box_ops
from ssdlite.benchmark.eval import simulate_output
from ssdlite.benchmark.gpu.cases import (
    CPU,
    make_batch,
    make_config,
    make_images,
    make_network,
    make_output,
    make_step,
    make_targets,
    output_to,
    read_photos,
    switch_off_tf32,
)
from ssdlite.benchmark.gpu.tasks import Outcome, Setting, TaskResults
from ssdlite.benchmark.workload import start_epoch, take_step
from ssdlite.build.model import build_decoder, dialect_of
from ssdlite.build.training import build_loader
from ssdlite.data.device import finish_images
from ssdlite.data.synthetic.dataset import make_synthetic
from ssdlite.losses.assigners import assign_atss, assign_task_aligned
from ssdlite.losses.corner import CornerCriterion
from ssdlite.losses.matching import assign_iou, match_greedily
from ssdlite.losses.recipes import Assigner, BoxLoss, FocalLoss, MultiboxLoss, QualityLoss, SampledLoss
from ssdlite.models.corner import CORNER_STRIDE
from ssdlite.structures import (
    Assignment,
    CornerOutput,
    Detections,
    DetectorOutput,
    HeadOutput,
    LossTerms,
    ScoreActivation,
)
from ssdlite.training.checkpoint import load_checkpoint
from ssdlite.training.step import on_device, split_batch

ASSIGNERS: dict[str, Assigner] = {
    "iou": assign_iou,
    "iou with a band and ties": partial(assign_iou, iou_threshold=0.7, background_below=0.3, all_ties=True),
    "atss": assign_atss,
    "task-aligned": assign_task_aligned,
}


RECIPES: dict[str, tuple[Callable[[], nn.Module], ScoreActivation]] = {
    "multibox": (partial(MultiboxLoss, label_smoothing=0.1), "softmax"),
    "multibox, sigmoid": (MultiboxLoss, "sigmoid"),
    "multibox, giou": (partial(MultiboxLoss, box=BoxLoss("giou")), "softmax"),
    "focal, diou": (partial(FocalLoss, box=BoxLoss("diou")), "sigmoid"),
    # All priors are drawn: generators of two devices draw differently, and what they draw is not compared here.
    "sampled": (partial(SampledLoss, num_samples=1_000_000), "softmax"),
    "quality, ciou": (partial(QualityLoss, box=BoxLoss("ciou")), "sigmoid"),
    "varifocal": (partial(QualityLoss, classification="varifocal"), "sigmoid"),
}


JITTER = 0.02  # of a prior's place and size


TURNED_OVER = 1e-4  # share of priors or gradients that may differ, where rounding decides at a threshold


LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3


PRIORS_TO_MATCH, LEVELS = 40, 8  # of the random batches; of their overlaps, so that most objects have ties


def check_assigners(setting: Setting) -> Outcome:
    """Labels, boxes and quality that each assigner gives, for priors off their grid.

    On it, many overlap an object equally, and which of them a GPU takes is open; `check_matching` is about ties.
    """
    findings = TaskResults()
    targets = make_targets(setting)
    output = make_output(setting, "sigmoid")
    shift = torch.rand(output.priors.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    output = output._replace(priors=output.priors * (1 + JITTER * shift))
    for name, assign in ASSIGNERS.items():
        with findings.case(name):
            expected = assign(output, *targets)
            moved = (each.to(setting.device) for each in targets)
            found = assign(output_to(output, setting.device), *moved)
            positives = int((expected.labels > 0).sum())
            findings.holds(f"{name}: positives", positives > 0, "the case has no positive", positives=positives)
            findings.equal(f"{name}: labels", found.labels, expected.labels, share=TURNED_OVER)
            findings.close(f"{name}: boxes", found.boxes, expected.boxes, share=TURNED_OVER)
            if expected.quality is not None and found.quality is not None:
                findings.close(f"{name}: quality", found.quality, expected.quality, share=TURNED_OVER)
    return findings.outcome()


def check_recipes(setting: Setting) -> Outcome:
    """Loss terms and gradients of each recipe with the assignment of each assigner, made on the CPU."""
    switch_off_tf32()
    findings = TaskResults()
    targets = make_targets(setting)
    for name, (make, activation) in RECIPES.items():
        output = make_output(setting, activation)
        for assigner, assign in ASSIGNERS.items():
            with findings.case(f"{name} + {assigner}"):
                assignment = assign(output, *targets)
                learnt = []
                for device in (CPU, setting.device):
                    copy = output_to(output, device, learn=True)
                    terms = make().to(device)(copy, _assignment_to(assignment, device))
                    torch.stack(list(terms.values())).sum().backward()
                    learnt.append((terms, copy.logits.grad, copy.deltas.grad))
                _compare(findings, f"{name} + {assigner}", learnt[1], learnt[0])
    return findings.outcome()


def check_matching(setting: Setting) -> Outcome:
    """Greedy matching on the device: without ties that of the CPU, with ties one that the rule allows."""
    findings = TaskResults()
    objects = setting.sizes.objects
    generator = torch.Generator().manual_seed(0)
    shape = (setting.sizes.matchings, objects, PRIORS_TO_MATCH)
    overlaps = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) > 0.6)
    overlaps[:, :, PRIORS_TO_MATCH // 5 :] *= 0.5  # more objects than good priors
    ranks = overlaps.flatten(1).argsort().argsort().view(shape) + 1
    overlaps = ranks / (objects * PRIORS_TO_MATCH) * (overlaps > 0)  # no two of a batch are equal
    found = match_greedily(overlaps.to(setting.device))
    findings.equal(f"{shape[0]} batches without ties", found, match_greedily(overlaps))
    tied = (overlaps * LEVELS).round() / LEVELS
    claims = match_greedily(tied.to(setting.device)).cpu().numpy()
    wrong = [reason for row, own in zip(tied.numpy(), claims, strict=True) if (reason := broken_rule(row, own))]
    findings.holds(
        f"{shape[0]} batches with ties: greedy",
        not wrong,
        f"{len(wrong)} are not; the first: {(wrong or [''])[0]}",
        wrong=len(wrong),
    )
    return findings.outcome()


def broken_rule(overlaps: np.ndarray, claims: np.ndarray) -> str:
    """Why `claims` (M,) are not what greedy matching makes of overlaps (M, P), or "" if they are.

    The largest pair that is left, again and again; of equal ones that of the first object; and of its equally good
    priors any.
    """
    left = overlaps.copy()
    for _ in range(int((claims >= 0).sum())):
        largest = left.max()
        owner = int((left == largest).any(axis=1).argmax())
        prior = int(claims[owner])
        if largest <= 0 or prior < 0 or left[owner, prior] != largest:
            return f"object {owner} has prior {prior}, and not one of overlap {largest:.3f}"
        left[owner], left[:, prior] = 0, 0
    return f"a pair of overlap {left.max():.3f} is left" if left.max() > 0 else ""


def check_corner_loss(setting: Setting) -> Outcome:
    """Terms and gradients of the corner head's criterion."""
    findings, sizes = TaskResults(), setting.sizes
    cells = -(-sizes.side // CORNER_STRIDE)
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, sizes.classes, cells, cells), (2, cells, cells), (2, 2, cells, cells))
    maps = [torch.randn(sizes.images, *shape, generator=generator) for shape in shapes]
    learnt = []
    for device in (CPU, setting.device):
        leaves = [each.to(device, copy=True).requires_grad_() for each in maps]
        targets = (each.to(device) for each in make_targets(setting))
        output = CornerOutput(leaves[0], leaves[1], leaves[2], (sizes.side, sizes.side))
        terms: LossTerms = CornerCriterion().to(device)(output, *targets)
        torch.stack(list(terms.values())).sum().backward()
        learnt.append((terms, *(leaf.grad for leaf in leaves)))
    _compare(findings, "corner", learnt[1], learnt[0])
    return findings.outcome()


def _assignment_to(assignment: Assignment, device: torch.device) -> Assignment:
    labels, boxes, quality = assignment
    return Assignment(labels.to(device), boxes.to(device), None if quality is None else quality.to(device))


def _compare(findings: TaskResults, name: str, found: tuple, expected: tuple) -> None:
    """(loss terms, gradients...) of two devices."""
    for term, value in expected[0].items():
        findings.close(f"{name}: {term}", found[0][term], value, tolerance=LOSS_TOLERANCE)
    for number, (ours, theirs) in enumerate(zip(found[1:], expected[1:], strict=True), start=1):
        assert isinstance(ours, Tensor) and isinstance(theirs, Tensor)
        findings.close(f"{name}: gradient {number}", ours, theirs, tolerance=GRADIENT_TOLERANCE, share=TURNED_OVER)


STEPS_OF = ("loss=multibox", "loss=focal", "loss=sampled", "loss=quality", "model.head=corner")


PRECISIONS = ("bf16", "fp32", "fp16")


NETWORK_TOLERANCE = 1e-6  # of float64


LEAST_COSINE = {torch.float32: 0.95, torch.bfloat16: 0.1}
"""Least cosine of gradients to those in float64. On a CPU, at full size, .994 and .56; of the tests' small networks
.25 in bfloat16 without instructions for it. Unrelated gradients of N numbers have 0 ± 1/√N, which is .001."""


BOX_TOLERANCE, SCORE_TOLERANCE = 0.05, 1e-4  # pixels; of detections that are the same


LOST = 0.005  # share of detections that rounding may decide on


APART_BY_ONE, MEAN_APART = 0.999, 0.05  # share of values within one level; levels


def check_network(setting: Setting) -> Outcome:
    """Outputs and gradients of both heads: in float64 those of the CPU, in other types of the same direction.

    Only float64 can be held to a tight bound: a network of fresh weights magnifies rounding, so that another order
    of sums changes its gradient in float32 by 8 % of its length.
    """
    switch_off_tf32()
    findings = TaskResults()
    images = make_images(setting.sizes.images, setting.sizes.side)
    for head in ("ssdlite", "corner"):
        expected, expected_gradient = _learn(setting, head, images, CPU, torch.float64)
        with findings.case(f"{head}, float64"):
            found, gradient = _learn(setting, head, images, setting.device, torch.float64)
            for name, ours, theirs in zip(expected._fields, found, expected, strict=True):
                if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
                    findings.close(f"{head}: {name}", ours, theirs, tolerance=NETWORK_TOLERANCE)
            findings.close(f"{head}: gradient", gradient, expected_gradient, tolerance=NETWORK_TOLERANCE)
        for dtype, least in LEAST_COSINE.items():
            name = f"{head}: gradient in {str(dtype).removeprefix('torch.')}"
            with findings.case(name):
                _, gradient = _learn(setting, head, images, setting.device, dtype)
                cosine = nn.functional.cosine_similarity(gradient, expected_gradient, dim=0).item()
                findings.holds(
                    name,
                    cosine >= least,
                    f"points elsewhere: its cosine to that in float64 is {cosine:.3f}, {least:g} or more is needed",
                    cosine=cosine,
                )
    return findings.outcome()


def _learn(
    setting: Setting, head: str, images: Tensor, device: torch.device, dtype: torch.dtype
) -> tuple[DetectorOutput, Tensor]:
    """The output for `images`, and all gradients of its mean square in a row (N,) float64, on the CPU."""
    network = make_network(make_config(setting, f"model.head={head}"), setting, device).train()
    if dtype is torch.float64:
        network.double()
    with torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        output = network(images.to(device).contiguous(memory_format=torch.channels_last))
    learnt = [each for each in output if isinstance(each, Tensor) and each.requires_grad]
    torch.stack([each.double().square().mean() for each in learnt]).sum().backward()
    gradients = [each.grad.flatten().double().cpu() for each in network.parameters() if each.grad is not None]
    return output, torch.cat(gradients)


def check_decoder(setting: Setting) -> Outcome:
    """Known boxes come back as they are, and simulated outputs give the detections that they give on the CPU."""
    findings, sizes = TaskResults(), setting.sizes
    size = (sizes.side, sizes.side)
    originals = [(2 * sizes.side, 3 * sizes.side)] * sizes.images
    decoder = build_decoder(make_config(setting).eval, size)
    with findings.case("known boxes"):
        output, boxes = _known_output(setting)
        found = decoder(output_to(output, setting.device), originals)
        scaled = boxes.numpy() * (3, 2, 3, 2)
        counts = [int((each.scores > 0.5).sum()) for each in found]
        findings.holds("known boxes: number", set(counts) == {len(boxes)}, f"{counts} of {len(boxes)} came back")
        nearest = [
            np.abs(one.boxes[one.scores > 0.5][:, None] - scaled[None]).max(-1).min(0).max()
            for one in found
            if (one.scores > 0.5).any()
        ]
        apart = float(max(nearest, default=np.inf))
        findings.holds(
            "known boxes: place", apart < BOX_TOLERANCE, f"off by {apart:.3g} pixels", **{"pixels off": apart}
        )
    for activation in ("softmax", "sigmoid"):
        with findings.case(activation):
            output = simulate_output(make_output(setting, activation))
            expected = decoder(output, originals)
            found = decoder(output_to(output, setting.device), originals)
            _same_detections(findings, f"simulated, {activation}", found, expected)
    with findings.case("corner head"):
        config = make_config(setting, "model.head=corner")
        images = make_images(sizes.images, sizes.side)
        network = make_network(config, setting, CPU).eval()
        with torch.no_grad():
            corner = network(images)
        noise = torch.randn(corner.heatmaps.shape, generator=torch.Generator().manual_seed(0))
        corner = corner._replace(heatmaps=2 * noise, offsets=corner.offsets.clamp(0, 1))
        moved = corner._replace(
            heatmaps=corner.heatmaps.to(setting.device),
            embeddings=corner.embeddings.to(setting.device),
            offsets=corner.offsets.to(setting.device),
        )
        _same_detections(findings, "corner head", decoder(moved, originals), decoder(corner, originals))
    return findings.outcome()


def _known_output(setting: Setting) -> tuple[HeadOutput, Tensor]:
    """An output that says the same six boxes (6, 4) in every image, one a prior, and surely nothing elsewhere."""
    output = make_output(setting, "softmax")
    side = setting.sizes.side
    starts = torch.tensor([[x, y] for y in (0.1, 0.55) for x in (0.05, 0.36, 0.67)]) * side
    boxes = torch.cat([starts, starts + torch.tensor([0.25, 0.31]) * side], dim=1)
    overlaps = box_ops.iou(boxes, box_ops.cxcywh_to_xyxy(output.priors))
    chosen: list[int] = []  # the best of each box that no other has
    for row in overlaps:
        chosen.append(next(prior for prior in row.argsort(descending=True).tolist() if prior not in chosen))
    priors = torch.tensor(chosen)
    logits = torch.full_like(output.logits, -12.0)
    logits[..., 0] = 12.0
    logits[:, priors, 0] = -12.0
    logits[:, priors, 1 + torch.arange(len(boxes)) % setting.sizes.classes] = 12.0
    deltas = torch.zeros_like(output.deltas)
    deltas[:, priors] = box_ops.encode(boxes, output.priors[priors])
    return output._replace(logits=logits, deltas=deltas), boxes


def _same_detections(findings: TaskResults, case: str, found: list[Detections], expected: list[Detections]) -> None:
    """Check that all but a few detections are in both lists."""
    lost = sum(_without_counterpart(*pair) for pair in zip(found, expected, strict=True))
    lost += sum(_without_counterpart(*pair) for pair in zip(expected, found, strict=True))
    total = sum(len(each.scores) for each in expected)
    findings.holds(
        case,
        total > 0 and lost <= LOST * 2 * total,
        f"{lost} of twice {total} detections have no counterpart on the other device",
        detections=total,
        without_counterpart=lost,
    )


def _without_counterpart(ours: Detections, theirs: Detections) -> int:
    same = (
        (ours.labels[:, None] == theirs.labels)
        & (np.abs(ours.scores[:, None] - theirs.scores) < SCORE_TOLERANCE)
        & (np.abs(ours.boxes[:, None] - theirs.boxes).max(-1, initial=0) < BOX_TOLERANCE)
    )
    return int((~same.any(axis=1)).sum())


def check_augmentation(setting: Setting) -> Outcome:
    """Drafts of photographs, finished on the device and on the CPU."""
    findings, sizes = TaskResults(), setting.sizes
    split = read_photos(setting, setting.scratch / "drafts", sizes.images)
    for recipe in ("ssd", "light", "flip"):
        with findings.case(recipe):
            config = make_config(
                setting,
                f"train.batch_size={sizes.images}",
                *("data.augment_on=device", f"data.augmentation={recipe}", "data.vertical_flip=true"),
            )
            alignment = dialect_of(config.model).resize_alignment
            loader = build_loader(
                config, split, training=True, alignment=alignment, device=setting.device, workers=0
            )
            drafts = next(start_epoch(loader, 1))
            expected = finish_images(drafts, config.model.input_size).images
            found = finish_images(drafts.to(setting.device), config.model.input_size).images.cpu()
            apart = (found.int() - expected.int()).abs()
            within, mean = (apart <= 1).double().mean().item(), apart.double().mean().item()
            findings.holds(
                recipe,
                found.shape == expected.shape and within >= APART_BY_ONE and mean <= MEAN_APART,
                f"{within:.2%} of the values are within one level, and {mean:.3f} levels is the mean difference",
                **{"within one level": within, "mean difference": mean},
            )
    return findings.outcome()


def check_steps(setting: Setting) -> Outcome:
    """Training steps of each recipe and precision never wait for the GPU, and learn."""
    findings, sizes = TaskResults(), setting.sizes
    for recipe in STEPS_OF:
        for precision in PRECISIONS if recipe == STEPS_OF[0] else PRECISIONS[:1]:
            if precision == "fp16" and setting.device.type == "cpu":
                continue
            with findings.case(f"{recipe}, {precision}"):
                config = make_config(setting, recipe, f"train.precision={precision}")
                step = make_step(config, setting, setting.device)
                drawn = [make_batch(config, setting, sizes.images, sizes.objects, CPU, seed) for seed in range(5)]
                if setting.device.type == "cuda":
                    drawn = [batch.pin_memory() for batch in drawn]
                before = [each.detach().clone() for each in step.model.parameters()]
                batches = on_device(drawn, setting.device)
                for batch in islice(batches, 2):  # which choose algorithms and allocate
                    take_step(step, batch)
                with waiting_is_an_error(setting.device):
                    for batch in batches:
                        take_step(step, batch)
                after = list(step.model.parameters())
                finite = all(bool(each.isfinite().all()) for each in after)
                moved = any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
                findings.holds(
                    f"{recipe}, {precision}", finite and moved, f"weights finite: {finite}, changed: {moved}"
                )
    return findings.outcome()


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """Whatever waits for the GPU raises RuntimeError; no effect on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


ROOT = Path(__file__).parents[3]


PATIENCE = 150.0  # seconds for one command


PROCESSES, STEPS = 2, 3


WEIGHT_TOLERANCE = 1e-4  # of weights after some steps in float32, in units of the largest of each tensor


def check_commands(setting: Setting) -> Outcome:
    """Train, Ctrl-C, --resume and eval on a drawn data set, as a person would."""
    findings = TaskResults()
    train = ["train", *_options(setting, "run"), f"train.epochs={setting.sizes.epochs}"]
    last = setting.scratch / "runs" / "run" / "last.pt"
    with findings.case("interrupt, resume"):
        process = _start(setting, *train)
        _wait_for(last, process)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=PATIENCE)[0]
        stopped = _step_of(last)
        total = setting.sizes.epochs * 3  # steps of 24 images in batches of 8
        findings.holds(
            "interrupted", process.returncode == 0 and 0 < stopped < total, _tail(output), step=stopped, of=total
        )
        resumed = _run(setting, *train, "--resume")
        findings.holds(
            "resumed", resumed.returncode == 0 and _step_of(last) == total, _tail(resumed.stdout), step=total
        )
    with findings.case("eval"):
        report = setting.scratch / "eval.json"
        evaluated = _run(setting, "eval", str(last.with_name("best.pt")), "--json", str(report))
        figures = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        findings.holds(
            "eval",
            evaluated.returncode == 0 and "coco" in figures,
            _tail(evaluated.stdout),
            AP=figures.get("coco", {}).get("AP"),
        )
    return findings.outcome()


def check_variants(setting: Setting) -> Outcome:
    """One epoch of the corner head, and of drafts that are finished on the device, from the disk cache."""
    findings = TaskResults()
    variants = {
        "corner": ["model.head=corner"],
        "augment_on=device": ["data.augment_on=device", "data.cache=disk", "data.workers=2"],
    }
    for name, options in variants.items():
        with findings.case(name):
            done = _run(setting, "train", *_options(setting, name), "train.epochs=1", *options)
            findings.holds(name, done.returncode == 0, _tail(done.stdout))
    return findings.outcome()


def check_processes(setting: Setting) -> Outcome:
    """Two processes with gloo on one device end with the weights of one that has the whole batch."""
    findings = TaskResults()
    folder = setting.scratch / "processes"
    folder.mkdir()
    multiprocessing.spawn(_train_share, args=(setting, str(folder)), nprocs=PROCESSES)
    expected = _weights_after(setting, (0, 1))
    found = [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]
    for name, value in expected.items():
        if not torch.equal(found[0][name], found[1][name]):
            findings.wrong(name, "differs between the processes")
        if value.is_floating_point():
            findings.close(name, found[0][name], value, tolerance=WEIGHT_TOLERANCE)
    worst = max((row.get("largest difference", 0.0) for row in findings.rows), default=0.0)
    row = {"case": f"{len(expected)} tensors", "largest difference": worst, "allowed": WEIGHT_TOLERANCE}
    return Outcome([row], findings.problems)


def _train_share(rank: int, setting: Setting, folder: str) -> None:
    torch.set_num_threads(1)
    if setting.device.type == "cuda":
        torch.cuda.set_device(0)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    torch.save(_weights_after(setting, (rank, PROCESSES)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def _weights_after(setting: Setting, share: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Weights after some steps with part number share[0] of share[1] of each batch; norms are frozen, because each
    process has statistics of its own images."""
    # Without mining: fresh weights score all background alike, and rounding would choose among it.
    options = ("loss=focal", "model.freeze=norms", "train.precision=fp32", "optim.lr=0.01", "optim.warmup_steps=1")
    config = make_config(setting, *options)
    step = make_step(config, setting, setting.device)
    switch_off_tf32()
    for number in range(STEPS):
        batch = make_batch(config, setting, setting.sizes.images, setting.sizes.objects, CPU, number)
        take_step(step, split_batch(batch, share[1])[share[0]].to(setting.device))
    return {name: value.cpu() for name, value in step.model.state_dict().items()}


def run_marked_tests(setting: Setting) -> Outcome:
    """The tests marked `cuda`, but for those of tests/gpu, which call what is called here."""
    tests = ROOT / "tests"
    if importlib.util.find_spec("pytest") is None:
        return Outcome([], not_run="pytest is not installed; the checks above do not need it")
    marked = [
        path
        for path in sorted(tests.rglob("test_*.py"))
        if path.parent != tests / "gpu" and re.search(r"^@pytest\.mark\.cuda", path.read_text("utf-8"), re.M)
    ]
    if not marked:
        return Outcome([], not_run=f"there are no tests marked cuda in {tests}")
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-rs", "-p", "no:cacheprovider", *map(str, marked)]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), text=True, capture_output=True, timeout=PATIENCE)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    findings = TaskResults()
    findings.holds("tests marked cuda", done.returncode == 0, _tail(done.stdout + done.stderr), result=last)
    return findings.outcome()


def _options(setting: Setting, name: str) -> list[str]:
    """Options of a small training on the drawn data set, which is drawn where it is not there yet."""
    data = setting.scratch / "drawn"
    make_synthetic(data, num_train=24, num_val=8, size=(96, 96), seed=0, workers=1)
    return [
        *(f"data={data}", f"run.dir={setting.scratch / 'runs'}", f"run.name={name}", "run.report=false"),
        *("model.width=0.25", "model.input_size=96", "model.weights=none", "train.batch_size=8"),
        *("data.workers=1", "train.save_interval=1", "train.log_interval=2", "--device", setting.device_name),
    ]


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _start(setting: Setting, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ssdlite", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=setting.scratch,
        env=_environment(),
    )


def _run(setting: Setting, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = _start(setting, *arguments)
    try:
        output = process.communicate(timeout=PATIENCE)[0]
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until the first step is saved, or the process has ended."""
    begun = time.monotonic()
    while not path.exists() and process.poll() is None and time.monotonic() - begun < PATIENCE:
        time.sleep(0.005)


def _step_of(path: Path) -> int:
    return int(load_checkpoint(path)["training"]["progress"]["step"]) if path.exists() else 0


def _tail(output: str) -> str:
    return " ".join(output.split())[-800:]
