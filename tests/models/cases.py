"""Networks to try a transfer on."""

import torch
from torch import nn

from ssdlite.models.network import Network


@torch.no_grad()
def randomized(network: Network) -> Network:
    """In evaluation mode, and every number of it random, as after a training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.01, 2)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.normal_()
    return network.eval()
