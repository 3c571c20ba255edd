"""Three other programs' networks by their own names and formulas: nothing here knows of ssdlite.

For each program a list of the tensors of a real checkpoint, and a class that computes boxes and scores from such a
state as the program does, one functional call a layer. Shapes: images (1, 3, S, S) pixels RGB; boxes (P, 4) xyxy,
pixels; scores (P, K + 1) in the program's own order of columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

# Sandler et al. 2018, table 2: expansion, channels, repeats, stride.
TABLE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SIDES = ((60, 105), (105, 150), (150, 195), (195, 240), (240, 285), (285, 330))  # pixels: pytorch-ssd and lufficc


def blocks() -> Iterator[tuple[int, int, int, int, int, int]]:
    """Of each inverted residual: stage and position there, channels in, expanded and out, stride."""
    channels = 32
    for stage, (expansion, out, repeats, stride) in enumerate(TABLE, 1):
        for position in range(repeats):
            yield stage, position, channels, channels * expansion, out, stride if position == 0 else 1
            channels = out


def norm_shapes(name: str, channels: int) -> Shapes:
    vectors = {f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def pytorch_ssd_shapes(columns: int) -> Shapes:
    """mb2-ssd-lite-*.pth for `columns` classes, background among them."""

    def residual(name, inputs, hidden, outputs, expand=True):
        shapes, place = {}, 0
        if expand:
            shapes |= {f"{name}.0.weight": (hidden, inputs, 1, 1), **norm_shapes(f"{name}.1", hidden)}
            place = 3
        shapes |= {f"{name}.{place}.weight": (hidden, 1, 3, 3), **norm_shapes(f"{name}.{place + 1}", hidden)}
        shapes |= {f"{name}.{place + 3}.weight": (outputs, hidden, 1, 1)}
        return shapes | norm_shapes(f"{name}.{place + 4}", outputs)

    shapes = {"base_net.0.0.weight": (32, 3, 3, 3), **norm_shapes("base_net.0.1", 32)}
    for number, (_, _, inputs, hidden, outputs, _) in enumerate(blocks(), 1):
        shapes |= residual(f"base_net.{number}.conv", inputs, hidden, outputs, expand=number > 1)
    shapes |= {"base_net.18.0.weight": (1280, 320, 1, 1), **norm_shapes("base_net.18.1", 1280)}
    levels = (1280, 512, 256, 256, 64)
    for number, hidden in enumerate((256, 128, 128, 64)):
        shapes |= residual(f"extras.{number}.conv", levels[number], hidden, levels[number + 1])
    for branch, width in (("classification_headers", columns), ("regression_headers", 4)):
        shapes |= separable_headers(branch, "", (576, *levels[:-1]), width)
        shapes |= {f"{branch}.5.weight": (6 * width, 64, 1, 1), f"{branch}.5.bias": (6 * width,)}
    return shapes


def separable_headers(branch: str, inner: str, channels: tuple[int, ...], width: int) -> Shapes:
    """Levels 0 to 4 of pytorch-ssd and lufficc: the depthwise convolution has a bias too."""
    shapes: Shapes = {}
    for level, inputs in enumerate(channels):
        name = f"{branch}.{level}{inner}"
        shapes |= {
            f"{name}.0.weight": (inputs, 1, 3, 3),
            f"{name}.0.bias": (inputs,),
            **norm_shapes(f"{name}.1", inputs),
        }
        shapes |= {f"{name}.3.weight": (6 * width, inputs, 1, 1), f"{name}.3.bias": (6 * width,)}
    return shapes


def lufficc_shapes(columns: int) -> Shapes:
    """The `model` of mobilenet_v2_ssd320 for `columns` classes, background among them."""

    def residual(name, inputs, hidden, outputs, expand=True):
        shapes, place = {}, 0
        if expand:
            shapes |= {f"{name}.0.0.weight": (hidden, inputs, 1, 1), **norm_shapes(f"{name}.0.1", hidden)}
            place = 1
        shapes |= {f"{name}.{place}.0.weight": (hidden, 1, 3, 3), **norm_shapes(f"{name}.{place}.1", hidden)}
        shapes |= {f"{name}.{place + 1}.weight": (outputs, hidden, 1, 1)}
        return shapes | norm_shapes(f"{name}.{place + 2}", outputs)

    shapes = {"backbone.features.0.0.weight": (32, 3, 3, 3), **norm_shapes("backbone.features.0.1", 32)}
    for number, (_, _, inputs, hidden, outputs, _) in enumerate(blocks(), 1):
        shapes |= residual(f"backbone.features.{number}.conv", inputs, hidden, outputs, expand=number > 1)
    shapes |= {"backbone.features.18.0.weight": (1280, 320, 1, 1), **norm_shapes("backbone.features.18.1", 1280)}
    levels = (1280, 512, 256, 256, 64)
    for number, hidden in enumerate((256, 128, 128, 64)):
        shapes |= residual(f"backbone.extras.{number}.conv", levels[number], hidden, levels[number + 1])
    for branch, width in (("cls_headers", columns), ("reg_headers", 4)):
        name = f"box_head.predictor.{branch}"
        shapes |= separable_headers(name, ".conv", (96, *levels[:-1]), width)
        shapes |= {f"{name}.5.weight": (6 * width, 64, 1, 1), f"{name}.5.bias": (6 * width,)}
    return shapes


def mmdetection_shapes(columns: int) -> Shapes:
    """The `state_dict` of ssdlite_mobilenetv2_scratch_600e_coco for `columns` classes, background among them."""

    def module(name, *kernel):
        return {f"{name}.conv.weight": kernel, **norm_shapes(f"{name}.bn", kernel[0])}

    shapes = module("backbone.conv1", 32, 3, 3, 3)
    for stage, position, inputs, hidden, outputs, _ in blocks():
        name = f"backbone.layer{stage}.{position}"
        if stage > 1:
            shapes |= module(f"{name}.expand_conv", hidden, inputs, 1, 1)
        shapes |= module(f"{name}.depthwise_conv", hidden, 1, 3, 3)
        shapes |= module(f"{name}.linear_conv", outputs, hidden, 1, 1)
    shapes |= module("backbone.conv2", 1280, 320, 1, 1)
    levels = (96, 1280, 512, 256, 256, 128)
    for number, hidden in enumerate((256, 128, 128, 64)):
        name = f"neck.extra_layers.{number}"
        shapes |= module(f"{name}.0", hidden, levels[number + 1], 1, 1)
        shapes |= module(f"{name}.1.depthwise_conv", hidden, 1, 3, 3)
        shapes |= module(f"{name}.1.pointwise_conv", levels[number + 2], hidden, 1, 1)
    for branch, width in (("cls_convs", columns), ("reg_convs", 4)):
        for level, inputs in enumerate(levels):
            name = f"bbox_head.{branch}.{level}"
            shapes |= module(f"{name}.0", inputs, 1, 3, 3)
            shapes |= {f"{name}.1.weight": (6 * width, inputs, 1, 1), f"{name}.1.bias": (6 * width,)}
    return shapes


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Weights under which signals neither fade nor explode, with every tensor different from its default."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        match name.rpartition(".")[2], len(shape):
            case "num_batches_tracked", _:
                state[name] = torch.tensor(7)
            case "running_var", _:
                state[name] = 0.3 + noise.abs()
            case "weight", 1:
                state[name] = 1 + 0.2 * noise
            case "weight", 4:
                state[name] = noise / math.prod(shape[1:]) ** 0.5
            case _:
                state[name] = 0.2 * noise
    return state


class Network:
    """A state and the eps of its norms; what the three programs have in common is arithmetic only."""

    def __init__(self, state: dict[str, Tensor], eps: float) -> None:
        self.state = state
        self.eps = eps

    def conv(self, features: Tensor, name: str, stride: int = 1) -> Tensor:
        """Half a kernel of zeros on every side; a kernel with one input column is depthwise."""
        kernel = self.state[f"{name}.weight"]
        groups = len(kernel) if kernel.shape[1] == 1 else 1
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(features, kernel, bias, stride, padding=kernel.shape[-1] // 2, groups=groups)

    def conv_norm(self, features: Tensor, conv: str, norm: str, stride: int = 1, activate: bool = True) -> Tensor:
        mean, var, gain, bias = (
            self.state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        features = F.batch_norm(self.conv(features, conv, stride), mean, var, gain, bias, eps=self.eps)
        return F.relu6(features) if activate else features


def flatten(prediction: Tensor, columns: int) -> Tensor:
    """(1, priors·columns, h, w) -> (h·w·priors, columns): y, then x, then prior."""
    _, channels, height, width = prediction.shape
    cells = prediction.reshape(channels // columns, columns, height, width)
    return cells.permute(2, 3, 0, 1).reshape(-1, columns)


class PytorchSsd(Network):
    """qfgaohao/pytorch-ssd, mb2-ssd-lite at 300."""

    size = 300
    mean, std = (127, 127, 127), (128, 128, 128)
    maps = (19, 10, 5, 3, 2, 1)
    strides = (16, 32, 64, 100, 150, 300)

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__(state, eps=1e-5)

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = (image.float() - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)
        locations, logits = self.heads(self.levels(features))
        return self.decode(locations, self.priors()), logits.softmax(-1)

    def levels(self, features: Tensor) -> list[Tensor]:
        features = self.conv_norm(features, "base_net.0.0", "base_net.0.1", stride=2)
        found = []
        for number, (_, _, inputs, _, outputs, stride) in enumerate(blocks(), 1):
            if number == 14:  # the expansion of the block that goes to stride 32
                found.append(self.conv_norm(features, "base_net.14.conv.0", "base_net.14.conv.1"))
            result = self.residual(features, f"base_net.{number}.conv", stride, expand=number > 1)
            features = features + result if stride == 1 and inputs == outputs else result
        found.append(self.conv_norm(features, "base_net.18.0", "base_net.18.1"))
        for number in range(4):
            found.append(self.residual(found[-1], f"extras.{number}.conv", stride=2))
        return found

    def residual(self, features: Tensor, name: str, stride: int, expand: bool = True) -> Tensor:
        if expand:
            features = self.conv_norm(features, f"{name}.0", f"{name}.1")
        place = 3 if expand else 0
        features = self.conv_norm(features, f"{name}.{place}", f"{name}.{place + 1}", stride)
        return self.conv_norm(features, f"{name}.{place + 3}", f"{name}.{place + 4}", activate=False)

    def heads(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        return (
            self.branch(levels, "regression_headers", ""),
            self.branch(levels, "classification_headers", ""),
        )

    def branch(self, levels: list[Tensor], branch: str, inner: str) -> Tensor:
        columns = len(self.state[f"{branch}.5.bias"]) // 6
        predictions = []
        for number, features in enumerate(levels[:-1]):
            name = f"{branch}.{number}{inner}"
            predictions.append(self.conv(self.conv_norm(features, f"{name}.0", f"{name}.1"), f"{name}.3"))
        predictions.append(self.conv(levels[-1], f"{branch}.5"))
        return torch.cat([flatten(prediction, columns) for prediction in predictions])

    def priors(self) -> Tensor:
        """(P, 4) cx, cy, w, h as shares of the image, clamped in this form."""
        found = []
        for cells, stride, (low, high) in zip(self.maps, self.strides, SIDES, strict=True):
            for row, column in product(range(cells), repeat=2):
                centre = ((column + 0.5) * stride / self.size, (row + 0.5) * stride / self.size)
                side, middle = low / self.size, math.sqrt(low * high) / self.size
                found += [(*centre, side, side), (*centre, middle, middle)]
                for ratio in (2, 3):
                    root = math.sqrt(ratio)
                    found += [(*centre, side * root, side / root), (*centre, side / root, side * root)]
        return torch.tensor(found).clamp(0, 1)

    def decode(self, locations: Tensor, priors: Tensor) -> Tensor:
        centres = locations[:, :2] * 0.1 * priors[:, 2:] + priors[:, :2]
        sides = torch.exp(locations[:, 2:] * 0.2) * priors[:, 2:]
        return torch.cat([centres - sides / 2, centres + sides / 2], dim=1) * self.size


class Lufficc(PytorchSsd):
    """lufficc/SSD, mobilenet_v2_ssd320: pytorch-ssd's formulas, another tap, size and mean, other names."""

    size = 320
    mean, std = (123, 117, 104), (1, 1, 1)
    maps = (20, 10, 5, 3, 2, 1)
    strides = (16, 32, 64, 107, 160, 320)

    def levels(self, features: Tensor) -> list[Tensor]:
        features = self.conv_norm(features, "backbone.features.0.0", "backbone.features.0.1", stride=2)
        found = []
        for number, (_, _, inputs, _, outputs, stride) in enumerate(blocks(), 1):
            result = self.residual(features, f"backbone.features.{number}.conv", stride, expand=number > 1)
            features = features + result if stride == 1 and inputs == outputs else result
            if number == 13:  # features[:14]
                found.append(features)
        found.append(self.conv_norm(features, "backbone.features.18.0", "backbone.features.18.1"))
        for number in range(4):
            found.append(self.residual(found[-1], f"backbone.extras.{number}.conv", stride=2))
        return found

    def residual(self, features: Tensor, name: str, stride: int, expand: bool = True) -> Tensor:
        if expand:
            features = self.conv_norm(features, f"{name}.0.0", f"{name}.0.1")
        place = 1 if expand else 0
        features = self.conv_norm(features, f"{name}.{place}.0", f"{name}.{place}.1", stride)
        return self.conv_norm(features, f"{name}.{place + 1}", f"{name}.{place + 2}", activate=False)

    def heads(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        return (
            self.branch(levels, "box_head.predictor.reg_headers", ".conv"),
            self.branch(levels, "box_head.predictor.cls_headers", ".conv"),
        )


class Mmdetection(Network):
    """mmdetection, ssdlite_mobilenetv2_scratch_600e_coco at 320. Its last column is the background."""

    size = 320

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__(state, eps=1e-3)

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = torch.tensor((123.675, 116.28, 103.53)), torch.tensor((58.395, 57.12, 57.375))
        levels = self.levels((image.float() - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        logits = self.branch(levels, "bbox_head.cls_convs")
        return self.decode(self.branch(levels, "bbox_head.reg_convs"), self.anchors()), logits.softmax(-1)

    def module(self, features: Tensor, name: str, stride: int = 1, activate: bool = True) -> Tensor:
        return self.conv_norm(features, f"{name}.conv", f"{name}.bn", stride, activate)

    def levels(self, features: Tensor) -> list[Tensor]:
        features = self.module(features, "backbone.conv1", stride=2)
        found = []
        for stage, position, inputs, _, outputs, stride in blocks():
            name = f"backbone.layer{stage}.{position}"
            result = self.module(features, f"{name}.expand_conv") if stage > 1 else features
            result = self.module(result, f"{name}.depthwise_conv", stride)
            result = self.module(result, f"{name}.linear_conv", activate=False)
            features = features + result if stride == 1 and inputs == outputs else result
            if (stage, position) == (5, 2):
                found.append(features)
        found.append(self.module(features, "backbone.conv2"))
        for number in range(4):
            name = f"neck.extra_layers.{number}"
            features = self.module(found[-1], f"{name}.0")
            features = self.module(features, f"{name}.1.depthwise_conv", stride=2)
            found.append(self.module(features, f"{name}.1.pointwise_conv"))
        return found

    def branch(self, levels: list[Tensor], branch: str) -> Tensor:
        columns = len(self.state[f"{branch}.0.1.bias"]) // 6
        predictions = [
            self.conv(self.module(features, f"{branch}.{number}.0"), f"{branch}.{number}.1")
            for number, features in enumerate(levels)
        ]
        return torch.cat([flatten(prediction, columns) for prediction in predictions])

    def anchors(self) -> Tensor:
        """(P, 4) xyxy, pixels, not clipped. Ratios are height to width."""
        found = []
        lows, highs = (48, 100, 150, 202, 253, 304), (100, 150, 202, 253, 304, 320)
        for cells, stride, low, high in zip(
            (20, 10, 5, 3, 2, 1), (16, 32, 64, 107, 160, 320), lows, highs, strict=True
        ):
            sides = [(low, 1), (math.sqrt(low * high), 1), (low, 1 / 2), (low, 2), (low, 1 / 3), (low, 3)]
            halves = [(side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2) for side, ratio in sides]
            for row, column in product(range(cells), repeat=2):
                x, y = stride / 2 + stride * column, stride / 2 + stride * row
                found += [(x - half_w, y - half_h, x + half_w, y + half_h) for half_w, half_h in halves]
        return torch.tensor(found)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        dx, dy, dw, dh = (deltas * torch.tensor((0.1, 0.1, 0.2, 0.2))).unbind(1)
        x1, y1, x2, y2 = anchors.unbind(1)
        x, y = (x1 + x2) / 2 + (x2 - x1) * dx, (y1 + y2) / 2 + (y2 - y1) * dy
        w, h = (x2 - x1) * dw.exp(), (y2 - y1) * dh.exp()
        return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)
