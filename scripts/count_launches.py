"""Print how many kernels a training step launches on a GPU, by part; no GPU is needed.

    python scripts/count_launches.py [KEY=VALUE ...] [--objects 16 60] [--classes 80] [--operators]

The options are those of `ssdlite train`; `ssdlite.benchmark.launches` says what is counted.
"""

from __future__ import annotations

import argparse

import torch

from ssdlite.benchmark.launches import (
    PARTS,
    LaunchCounter,
    count_step,
    empty_batch,
    move_without_values,
    pretended_gpu,
)
from ssdlite.build.model import empty_detector
from ssdlite.build.training import build_criterion, build_dtype, build_step
from ssdlite.config.schema import Config, load_config
from ssdlite.structures import DataSplit

DEFAULTS = ("model.input_size=320", "model.weights=none", "train.batch_size=32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--objects", type=int, nargs="+", default=[16, 60], help="M of the batch")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--operators", action="store_true", help="also by operator")
    arguments = parser.parse_args()
    columns = {}
    for precision in ("fp32", "bf16"):
        for objects in arguments.objects:
            config = load_config(None, [*DEFAULTS, *arguments.options, f"train.precision={precision}"])
            columns[f"{precision}, M = {objects}"] = counted(config, objects, arguments.classes)
    print("| launches | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for part in PARTS:
        print(f"| {part} | " + " | ".join(str(each.by_part().get(part, 0)) for each in columns.values()) + " |")
    print("| **step** | " + " | ".join(str(each.total) for each in columns.values()) + " |")
    if arguments.operators:
        for title, counter in columns.items():
            print(f"\n{title}")
            for (part, operator), count in counter.launches.most_common():
                print(f"{count:6} {part:12} {operator}")


def counted(config: Config, num_objects: int, num_classes: int) -> LaunchCounter:
    """The launches of a step of a training under `config`."""
    names = tuple(f"class {number}" for number in range(1, num_classes + 1))
    device, size = torch.device("cuda"), config.model.input_size
    network = empty_detector(config, names).to(memory_format=torch.channels_last)
    criterion = build_criterion(config.loss, DataSplit([], names, ()))
    with pretended_gpu():
        move_without_values(network.train(), device)
        move_without_values(criterion, device)
        dtype = build_dtype(config.train.precision, device)
        step = build_step(config, network, criterion, total_steps=10, device=device, dtype=dtype)
        return count_step(step, empty_batch(config.train.batch_size, size, num_objects, device))


if __name__ == "__main__":
    main()
