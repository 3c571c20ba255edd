"""Non-maximum suppression as ONNX nodes after a decoded network, by the operator or by arithmetic on tensors.

The second form is for runtimes without the operator. Both accept any batch size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node, make_tensor, make_tensor_value_info

from ssdlite.export.metadata import OUTPUT_NAMES, Selection, SuppressionKind

BOXES, SCORES, LABELS, COUNT = OUTPUT_NAMES["nms"]


MAX_CANDIDATES = 512
"""Number of candidates of all classes together in suppression by tensors, which compares every pair of them.

It is raised to twice the number of detections if that is more. The result equals that of all candidates if enough
of the best are kept, or if no more are above the threshold. In 60 images of people with helmets, 319 of 800
candidates were kept (median)."""


def limit_candidates(selection: Selection, kind: SuppressionKind, num_priors: int, num_classes: int) -> Selection:
    """Return `selection` with the number of candidates that suppression of `kind` compares."""
    if kind == "op":
        return selection
    each = min(selection.candidates_per_class, num_priors)
    bound = max(MAX_CANDIDATES, 2 * selection.max_detections)
    return replace(selection, candidates=min(each * num_classes, bound))


def append_nms(model: onnx.ModelProto, selection: Selection, input_size: tuple[int, int]) -> None:
    """Turn the outputs `boxes` (B, P, 4) and `scores` (B, P, K) of `model` into detections, in place.

    detection_boxes   (B, D, 4) float32  xyxy, the unit of `boxes`, clipped to `input_size`; zeros as padding
    detection_scores  (B, D) float32     descending; 0 as padding
    detection_labels  (B, D) int64       0..K-1; -1 as padding
    num_detections    (B,) int64         without the padding

    Suppression is by tensors if `selection.candidates` is set (see `limit_candidates`), else by NonMaxSuppression.
    D is max_detections, or the number of candidates if that is less, since TopK cannot give more. All operators
    exist since opset 13.
    """
    graph = model.graph
    batch, priors, classes = graph.output[1].type.tensor_type.shape.dim
    num_priors, num_scores = priors.dim_value, priors.dim_value * classes.dim_value
    num_rows = min(selection.max_detections, selection.candidates or num_scores)
    limited = selection.candidates_per_class < num_priors
    height, width = input_size
    constants = {
        "num_rows": np.array([num_rows]),
        "num_priors": np.array(num_priors),
        "corners": np.array([1, 1, 4]),
        "image_start": np.array(0, np.float32),
        "image_end": np.array([width, height, width, height], np.float32),
        "one_each": np.ones(4, np.int64),
        "last_axis": np.array([-1]),
        "no_score": np.array(0, np.float32),
        "no_label": np.array(-1),
    }
    if limited:
        constants["num_candidates"] = np.array([selection.candidates_per_class])
        constants["last_candidate"] = np.array([selection.candidates_per_class - 1])
    suppression, more_constants = (
        _operator_suppression(selection, num_rows, num_scores)
        if selection.candidates is None
        else tensor_suppression(selection, num_scores)
    )
    constants |= more_constants
    nodes = [
        *_clipping_nodes(),
        make_node(
            "Transpose", ["seen_scores_BPK"], ["all_scores_BKP" if limited else "scores_BKP"], perm=[0, 2, 1]
        ),
        *(_candidate_nodes() if limited else []),
        *suppression,
        *_output_nodes(),
    ]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(nodes)
    _declare_outputs(graph, batch.dim_value or batch.dim_param, num_rows)


def _declare_outputs(graph: GraphProto, batch: int | str, num_rows: int) -> None:
    del graph.output[:]
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT64)
    shapes: tuple[list[int], ...] = ([num_rows, 4], [num_rows], [num_rows], [])
    graph.output.extend(
        make_tensor_value_info(name, kind, [batch, *shape])
        for name, kind, shape in zip(OUTPUT_NAMES["nms"], kinds, shapes, strict=True)
    )


def _clipping_nodes() -> list[NodeProto]:
    """Return nodes that clip boxes to the image and set the scores of those without area there to 0.

    `models.decode` does so too.
    """
    return [
        make_node("Max", ["boxes", "image_start"], ["boxes_from_start"]),
        make_node("Min", ["boxes_from_start", "image_end"], ["clipped_boxes"]),
        make_node("Split", ["clipped_boxes", "one_each"], ["x1", "y1", "x2", "y2"], axis=2),
        make_node("Less", ["x1", "x2"], ["has_width"]),
        make_node("Less", ["y1", "y2"], ["has_height"]),
        make_node("And", ["has_width", "has_height"], ["is_seen_BP1"]),
        make_node("Where", ["is_seen_BP1", "scores", "no_score"], ["seen_scores_BPK"]),
    ]


def _candidate_nodes() -> list[NodeProto]:
    """Return nodes that keep the best scores of each class and set the others to 0, as `models.decode` does.

    Without them an image with more candidates would give other detections than the evaluation did. They take 3 ms
    of one core for 80 classes and 2,000 priors, and far less for a few classes.
    """
    return [
        make_node("TopK", ["all_scores_BKP", "num_candidates"], ["candidate_scores", "candidates"], axis=2),
        make_node("Gather", ["candidate_scores", "last_candidate"], ["lowest_BK1"], axis=2),
        make_node("GreaterOrEqual", ["all_scores_BKP", "lowest_BK1"], ["is_candidate_BKP"]),
        make_node("Where", ["is_candidate_BKP", "all_scores_BKP", "no_score"], ["scores_BKP"]),
    ]


def _operator_suppression(
    selection: Selection, num_rows: int, num_scores: int
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Return nodes from `boxes` and `scores_BKP` to the best scores that are kept and their positions in K·P.

    NonMaxSuppression gives a variable number of rows (image, class, prior); scattering them makes the shapes fixed.
    """
    limits = ["max_per_class", "iou_threshold", "score_threshold"]
    constants = {
        "max_per_class": np.array([num_rows]),
        "iou_threshold": np.array([selection.iou_threshold], np.float32),
        "score_threshold": np.array([selection.score_threshold], np.float32),
        "flat_shape": np.array([-1, num_scores]),
    }
    zeros = make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        make_node("NonMaxSuppression", ["boxes", "scores_BKP", *limits], ["kept_indices"]),
        make_node("GatherND", ["scores_BKP", "kept_indices"], ["kept_scores"]),
        make_node("Shape", ["scores_BKP"], ["shape_BKP"]),
        make_node("ConstantOfShape", ["shape_BKP"], ["zeros_BKP"], value=zeros),
        make_node("ScatterND", ["zeros_BKP", "kept_indices", "kept_scores"], ["kept_BKP"]),
        make_node("Reshape", ["kept_BKP", "flat_shape"], ["kept_flat"]),
        make_node("TopK", ["kept_flat", "num_rows"], [SCORES, "top"], axis=1),
    ]
    return nodes, constants


def _output_nodes() -> list[NodeProto]:
    """Return nodes that pick the best detections of all classes in each image and pad them."""
    return [
        make_node("Greater", [SCORES, "no_score"], ["found"]),
        make_node("Div", ["top", "num_priors"], ["top_labels"]),
        make_node("Where", ["found", "top_labels", "no_label"], [LABELS]),
        make_node("Mod", ["top", "num_priors"], ["top_priors"]),
        make_node("Unsqueeze", ["top_priors", "last_axis"], ["top_priors_BD1"]),
        make_node("Expand", ["top_priors_BD1", "corners"], ["top_priors_BD4"]),
        make_node("GatherElements", ["clipped_boxes", "top_priors_BD4"], ["top_boxes"], axis=1),
        make_node("Unsqueeze", ["found", "last_axis"], ["found_BD1"]),
        make_node("Where", ["found_BD1", "top_boxes", "no_score"], [BOXES]),
        make_node("Cast", ["found"], ["found_number"], to=TensorProto.INT64),
        make_node("ReduceSum", ["found_number", "last_axis"], [COUNT], keepdims=0),
    ]


ROUNDS = 16


def tensor_suppression(selection: Selection, num_scores: int) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Return nodes from `boxes` (B, P, 4) and `scores_BKP` to the best scores that are kept and their positions.

    Positions are in K·P = `num_scores`. The M = selection.candidates best scores above the threshold take part.
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
    """Return nodes that gather the M candidates with their classes and boxes."""
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
    """Return nodes for `suppresses_BMM` (B, M, M): 1 where the box of a row, if kept, removes that of a column."""
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
        # Multiplied out, so that boxes without area overlap nothing.
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
