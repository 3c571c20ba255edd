"""Assignment and losses on the device against the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ssdlite.benchmark.gpu.cases import CPU, make_output, make_targets, output_to, switch_off_tf32
from ssdlite.benchmark.gpu.tasks import Findings, Outcome, Setting
from ssdlite.losses.atss import assign_atss
from ssdlite.losses.corner import CornerCriterion
from ssdlite.losses.criterion import Assigner
from ssdlite.losses.focal import FocalLoss
from ssdlite.losses.matching import assign_iou, match_greedily
from ssdlite.losses.multibox import MultiboxLoss
from ssdlite.losses.quality import QualityLoss
from ssdlite.losses.sampled import SampledLoss
from ssdlite.losses.task_aligned import assign_task_aligned
from ssdlite.losses.terms import BoxTerm
from ssdlite.model.corner import CORNER_STRIDE
from ssdlite.structures import Assignment, CornerOutput, LossTerms, ScoreActivation

ASSIGNERS: dict[str, Assigner] = {
    "iou": assign_iou,
    "iou with a band and ties": partial(assign_iou, iou_threshold=0.7, background_below=0.3, all_ties=True),
    "atss": assign_atss,
    "task-aligned": assign_task_aligned,
}
RECIPES: dict[str, tuple[Callable[[], nn.Module], ScoreActivation]] = {
    "multibox": (partial(MultiboxLoss, label_smoothing=0.1), "softmax"),
    "multibox, sigmoid": (MultiboxLoss, "sigmoid"),
    "multibox, giou": (partial(MultiboxLoss, box=BoxTerm("giou")), "softmax"),
    "focal, diou": (partial(FocalLoss, box=BoxTerm("diou")), "sigmoid"),
    # All priors are drawn: generators of two devices draw differently, and what they draw is not compared here.
    "sampled": (partial(SampledLoss, num_samples=1_000_000), "softmax"),
    "quality, ciou": (partial(QualityLoss, box=BoxTerm("ciou")), "sigmoid"),
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
    findings = Findings()
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
    findings = Findings()
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
    findings = Findings()
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
    findings, sizes = Findings(), setting.sizes
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


def _compare(findings: Findings, name: str, found: tuple, expected: tuple) -> None:
    """(loss terms, gradients...) of two devices."""
    for term, value in expected[0].items():
        findings.close(f"{name}: {term}", found[0][term], value, tolerance=LOSS_TOLERANCE)
    for number, (ours, theirs) in enumerate(zip(found[1:], expected[1:], strict=True), start=1):
        assert isinstance(ours, Tensor) and isinstance(theirs, Tensor)
        findings.close(f"{name}: gradient {number}", ours, theirs, tolerance=GRADIENT_TOLERANCE, share=TURNED_OVER)
