"""Core ML: NAME.mlpackage, for iPhones and Macs. It can be written on Linux but runs on Apple's systems only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.export.formats.base import Format, load_package, suppress_output
from ssdlite.export.metadata import OUTPUT_NAMES

if TYPE_CHECKING:
    from ssdlite.export.formats.conversion import Conversion


def convert(conversion: Conversion, path: Path) -> dict[str, str]:
    """Write the folder `path`; gives the metadata, which is in it as well.

    Its input `images` is an RGB image of the input size, as Vision hands them over.
    """
    import torch

    def clamp(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return values.maximum(low).minimum(high)

    properties = conversion.properties()
    with suppress_output("Core ML's conversion"):
        coreml = load_package("coremltools", "coreml")
        program = torch.export.export(conversion.module(), (conversion.example(),))
        # coremltools 9.0 takes the limits of a clamp for single numbers.
        program = program.run_decompositions({torch.ops.aten.clamp.Tensor: clamp})
        model = coreml.convert(
            program,
            inputs=[
                coreml.ImageType(
                    name="images", shape=tuple(conversion.example().shape), color_layout=coreml.colorlayout.RGB
                )
            ],
            outputs=[coreml.TensorType(name=name) for name in OUTPUT_NAMES[conversion.head]],
            minimum_deployment_target=coreml.target.iOS16,
            compute_precision=getattr(
                coreml.precision, {"fp32": "FLOAT32", "fp16": "FLOAT16"}[conversion.precision]
            ),
            skip_model_load=True,
        )
        model.user_defined_metadata.update(properties)
        model.save(str(path))
    return properties


COREML = Format(
    name="coreml",
    program="Core ML",
    suffix=".mlpackage",
    heads=("decoded", "raw"),
    precisions=("fp32", "fp16"),
    modules=("coremltools",),
    distributions=("coremltools",),
    convert=convert,
    open=None,
    systems="Apple's systems",
)
