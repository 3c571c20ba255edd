"""Greedy suppression as plain arithmetic, for runtimes that have no operator for it.

The candidates are ordered by score, best first, and S[j, i] says that j comes before i, is of its class and
overlaps it too much. What greedy suppression keeps is the one set with

    keep[i]  =  no j with keep[j] and S[j, i].

Starting from all candidates, each round computes the right-hand side from the last round's set: one product of a
vector with a matrix. The best box depends on nothing and is right after one round; what depends only on boxes that
are final is final one round later. So after t rounds every box is final that no chain of more than t boxes leads
to, each of which overlaps the next, and the result is the greedy one, exactly, if no chain has more than `ROUNDS`;
as many rounds as candidates would do for any boxes. Beyond that only the ends of the longer chains are undecided,
and an even number of rounds keeps them: the proof of a file (`deploy.proof.verify`) finds boxes that should have
suppressed each other. In 60 images of people with helmets, 800 candidates each, the longest chain had 8 boxes.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto
from onnx.helper import make_node

from ssdlite.deploy.metadata import OUTPUT_NAMES, Selection

ROUNDS = 16


def tensor_suppression(selection: Selection, num_scores: int) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Nodes from `boxes` (B, P, 4) and `scores_BKP` to the best scores that are kept and their positions in K·P.

    M = selection.candidates of the `num_scores` = K·P take part: the best above the threshold.
    """
    assert selection.candidates is not None
    count = selection.candidates
    constants = {
        "flat_shape": np.array([-1, num_scores]),
        "num_candidates_in_all": np.array([count]),
        "score_threshold": np.array(selection.score_threshold, np.float32),
        "iou_threshold": np.array(selection.iou_threshold, np.float32),
        "second_axis": np.array([1]),
        "ranks": np.arange(count, dtype=np.float32)[:, None],
        "later_ranks": np.arange(count, dtype=np.float32)[None],
        "any_hit": np.array(0.5, np.float32),
    }
    return [*_gathering_nodes(), *_pairing_nodes(), *_round_nodes()], constants


def _gathering_nodes() -> list[NodeProto]:
    """The candidates with their classes and boxes."""
    return [
        make_node("Reshape", ["scores_BKP", "flat_shape"], ["all_scores"]),
        make_node("Greater", ["all_scores", "score_threshold"], ["is_above"]),
        make_node("Where", ["is_above", "all_scores", "no_score"], ["scores_above"]),
        make_node("TopK", ["scores_above", "num_candidates_in_all"], ["scores_BM", "candidates_BM"], axis=1),
        make_node("Div", ["candidates_BM", "num_priors"], ["classes_BM"]),
        make_node("Mod", ["candidates_BM", "num_priors"], ["priors_BM"]),
        make_node("Unsqueeze", ["priors_BM", "last_axis"], ["priors_BM1"]),
        make_node("Expand", ["priors_BM1", "corners"], ["priors_BM4"]),
        make_node("GatherElements", ["boxes", "priors_BM4"], ["boxes_BM4"], axis=1),
    ]


def _pairing_nodes() -> list[NodeProto]:
    """S, (B, M, M): the box of a row suppresses that of a column, if it is kept."""
    nodes = [
        make_node("Transpose", ["boxes_BM4"], ["boxes_B4M"], perm=[0, 2, 1]),
        make_node("Split", ["boxes_BM4", "one_each"], ["row_x1", "row_y1", "row_x2", "row_y2"], axis=2),
        make_node("Split", ["boxes_B4M", "one_each"], ["column_x1", "column_y1", "column_x2", "column_y2"], axis=1),
    ]
    for axis in "xy":
        for side in ("row", "column"):
            nodes.append(make_node("Sub", [f"{side}_{axis}2", f"{side}_{axis}1"], [f"{side}_{axis}"]))
        nodes += [
            make_node("Max", [f"row_{axis}1", f"column_{axis}1"], [f"low_{axis}"]),
            make_node("Min", [f"row_{axis}2", f"column_{axis}2"], [f"high_{axis}"]),
            make_node("Sub", [f"high_{axis}", f"low_{axis}"], [f"overlap_{axis}"]),
            make_node("Relu", [f"overlap_{axis}"], [f"common_{axis}"]),
        ]
    return [
        *nodes,
        *(make_node("Mul", [f"{part}_x", f"{part}_y"], [f"{part}_area"]) for part in ("row", "column", "common")),
        make_node("Add", ["row_area", "column_area"], ["both_areas"]),
        make_node("Sub", ["both_areas", "common_area"], ["union"]),
        # Without a division, boxes of no area overlap nothing.
        make_node("Mul", ["union", "iou_threshold"], ["allowed_area"]),
        make_node("Greater", ["common_area", "allowed_area"], ["overlaps"]),
        make_node("Unsqueeze", ["classes_BM", "last_axis"], ["row_class"]),
        make_node("Unsqueeze", ["classes_BM", "second_axis"], ["column_class"]),
        make_node("Equal", ["row_class", "column_class"], ["same_class"]),
        make_node("Less", ["ranks", "later_ranks"], ["comes_before"]),
        make_node("And", ["overlaps", "same_class"], ["are_rivals"]),
        make_node("And", ["are_rivals", "comes_before"], ["suppresses"]),
        make_node("Cast", ["suppresses"], ["suppresses_BMM"], to=TensorProto.FLOAT),
    ]


def _round_nodes() -> list[NodeProto]:
    nodes = [
        make_node("Greater", ["scores_BM", "no_score"], ["is_candidate"]),
        make_node("Cast", ["is_candidate"], ["candidate_BM"], to=TensorProto.FLOAT),
        make_node("Unsqueeze", ["candidate_BM", "second_axis"], ["keep_0"]),
    ]
    for number in range(ROUNDS):
        nodes += [
            make_node("MatMul", [f"keep_{number}", "suppresses_BMM"], [f"hits_{number}"]),
            make_node("Less", [f"hits_{number}", "any_hit"], [f"is_free_{number}"]),
            make_node("Cast", [f"is_free_{number}"], [f"free_{number}"], to=TensorProto.FLOAT),
            make_node("Mul", [f"free_{number}", "keep_0"], [f"keep_{number + 1}"]),
        ]
    return [
        *nodes,
        make_node("Squeeze", [f"keep_{ROUNDS}", "second_axis"], ["keep_BM"]),
        make_node("Mul", ["scores_BM", "keep_BM"], ["kept_BM"]),
        make_node("TopK", ["kept_BM", "num_rows"], [OUTPUT_NAMES["nms"][1], "best_BD"], axis=1),
        make_node("GatherElements", ["candidates_BM", "best_BD"], ["top"], axis=1),
    ]
