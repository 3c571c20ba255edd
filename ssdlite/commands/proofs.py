"""What a person reads of the proof of an exported file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.commands.screen import console

if TYPE_CHECKING:
    from ssdlite.deploy.proof.prove import Proof


def show_proof(proof: Proof | None, reason: str) -> None:
    """Print it; `reason` says why there is none."""
    if proof is None:
        console.print(f"Not compared with PyTorch ({reason}).")
        return
    verification, latency = proof.verification, proof.latency
    batches = " and ".join(map(str, verification.batch_sizes))
    images = f"{verification.num_images} {'validation images' if proof.accuracy else 'drawn pictures'}"
    console.print(f"Agrees with PyTorch on {images}, at batch {batches}:")
    for difference in verification.differences:
        console.print(f"  {difference}")
    if proof.accuracy:
        console.print(f"  {proof.accuracy}")
    else:
        console.print("  AP was not compared, for want of validation images; data=PATH names them.")
    for name, found in (("this file", latency.file), ("PyTorch", latency.torch)):
        console.print(
            f"  {name}: {found.p50:.1f} ms (median), {found.p90:.1f} ms (90 %), batch {latency.batch_size}"
        )
