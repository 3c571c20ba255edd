"""The list of layers that name tables and transfers go through: nothing of a Detector is left out."""

import pytest
from torch import nn

from ssdlite.models.corner import CornerDetector
from ssdlite.models.detector import Detector
from ssdlite.models.layers import backbone_layers, corner_layers, layers
from ssdlite.models.variants import DIALECTS, PAPER


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_every_parameter_belongs_to_one_layer(dialect):
    detector = Detector(dialect, num_classes=2, input_size=(96, 96), width=0.25)
    found = layers(dialect)
    names = [name for layer in found for name in (layer.conv, layer.norm) if name]
    modules = [name for name, module in detector.named_modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    assert sorted(names) == sorted(modules)
    assert len({(layer.part, layer.index, layer.role) for layer in found}) == len(found)
    for layer in found:
        conv = detector.get_submodule(layer.conv)
        assert layer.has_bias == (conv.bias is not None)
        kernel = (3, 3) if layer.role == "depthwise" or layer.part == "stem" else (1, 1)
        assert conv.kernel_size == kernel, layer
        if layer.norm:
            assert detector.get_submodule(layer.norm).num_features == conv.out_channels


@pytest.mark.parametrize(("stride", "num_maps"), [(4, 4), (8, 3), (16, 2)])
def test_every_parameter_of_a_corner_network_belongs_to_one_layer(stride, num_maps):
    detector = CornerDetector(PAPER, num_classes=2, input_size=(64, 64), width=0.25, stride=stride)
    found = corner_layers(num_maps, backbone_layers())
    names = [name for layer in found for name in (layer.conv, layer.norm) if name]
    modules = [name for name, module in detector.named_modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    assert sorted(names) == sorted(modules)
    assert len({(layer.part, layer.index, layer.role) for layer in found}) == len(found)
    assert all(layer.has_bias == (detector.get_submodule(layer.conv).bias is not None) for layer in found)
