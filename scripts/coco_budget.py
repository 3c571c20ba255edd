"""Estimate from measured rates of the hours that a COCO training of 71 million images takes, and what it waits for.

ssdlite benchmark configs/coco-simulated.yaml --json cpu.json
python scripts/coco_budget.py cpu.json [more.json ...] [--nodes 1,2,4]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

BUDGET = 71_000_000  # images: 600 epochs of train2017, mmdetection's recipe in configs/coco.yaml
GRADIENT_MB = 13.0  # of a 3.2 million parameter network in float32, exchanged once a step
LINK_MB_PER_S = 1000.0  # a 10 Gbit/s network, of which 8 arrive


class Rates(NamedTuple):
    """Images a second of one machine."""

    network: float  # a training on resident batches
    decoding: float  # training samples from files, all cores
    cached: float  # training samples from the disk cache, all cores


def read_rates(path: Path) -> tuple[str, Rates, int]:
    """The machine's name, its rates and its batch size, from what `ssdlite benchmark --json` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    values = {(row["section"], row["name"], row["unit"]): row["value"] for row in content["rows"]}
    cores = content["machine"]["cores"]

    def rate(section: str, name: str) -> float:
        return float(values[section, name, "images/s"])

    rates = Rates(
        network=rate("train", "training on a resident batch"),
        decoding=cores * rate("loader", "decode + augmentation: a training sample"),
        cached=cores * rate("loader", "a training sample from the disk cache"),
    )
    machine = content["machine"]
    return (
        f"{machine['gpu'] or machine['processor']}, {cores} cores",
        rates,
        content["config"]["train"]["batch_size"],
    )


def on_nodes(rates: Rates, batch_size: int, nodes: int) -> tuple[float, float, str]:
    """Images a second from files, from the cache, and what the former waits for.

    Arithmetic, not measured: every node has its share of the images, and a ring exchanges gradients after a step.
    """
    exchange = 2 * GRADIENT_MB / LINK_MB_PER_S * (nodes - 1) / nodes  # seconds a step
    network = batch_size / (batch_size / rates.network + exchange)
    slowest = min((network, "network"), (rates.decoding, "decoding"))
    cached = min(network, rates.cached)
    waits = (
        "exchange of gradients" if slowest[1] == "network" and exchange > batch_size / rates.network else slowest[1]
    )
    return nodes * slowest[0], nodes * cached, waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="JSON")
    parser.add_argument("--nodes", default="1,2,4,8", help="numbers of machines, between commas")
    arguments = parser.parse_args()
    print("| machine | nodes | images/s from files | hours | images/s from the cache | hours | waits for |")
    print("|---|---|---|---|---|---|---|")
    for path in arguments.results:
        name, rates, batch_size = read_rates(path)
        for nodes in map(int, arguments.nodes.split(",")):
            files, cached, waits = on_nodes(rates, batch_size, nodes)
            hours = [f"{BUDGET / rate / 3600:,.0f}" for rate in (files, cached)]
            print(f"| {name} | {nodes} | {files:,.0f} | {hours[0]} | {cached:,.0f} | {hours[1]} | {waits} |")


if __name__ == "__main__":
    main()
