"""Options of the optimizer, the training loop, evaluation and the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ssdlite.config.section import FilePath, Fraction, NotNegative, Positive, Section, _distinct
from ssdlite.errors import ConfigError


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class LrFactorsConfig(Section):
    """Factors of the learning rate for each part of the network."""

    backbone: Annotated[float, Field(gt=0)] = 1.0
    extras: Annotated[float, Field(gt=0)] = 1.0
    head: Annotated[float, Field(gt=0)] = 1.0


class OptimConfig(Section):
    """SGD with Nesterov momentum, linear warm-up, cosine to zero."""

    lr: Annotated[float, Field(gt=0)] = 0.02
    """Peak learning rate, for the whole batch as given by train.batch_size."""
    lr_factors: LrFactorsConfig = LrFactorsConfig()
    """Multiples of lr for backbone, extras (or the corner head's neck) and head: what knows something may go
    slower."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 4e-5
    """L2 on weights; never on norms and biases."""
    warmup_steps: NotNegative = 200
    """Steps from lr/1000 to lr; at most a tenth of the run."""


class TrainConfig(Section):
    """Length, batches, precision and saving of a training."""

    epochs: Positive = 100
    batch_size: Positive = 32
    """Images a step, over all processes together."""
    sync_norms: bool = False
    """BatchNorm over the images of all processes, on GPUs; else each process has statistics of its own images, and
    those of the first are kept."""
    accumulate: Positive = 1
    """Parts that a step's images go through the network in, one after the other, where memory is short."""
    compile: Literal["none", "default", "reduce-overhead"] = "none"
    """torch.compile's mode for the network: default fuses what lies between the convolutions, reduce-overhead uses
    CUDA graphs as well, without train.accumulate. Compiling takes a minute or two, and on a CPU needs a C++
    compiler. Validation is not compiled."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type. auto: bf16 where the processor has it, fp16 with a loss scaler on older GPUs, else fp32. fp32
    is IEEE's single precision on GPUs too, and not TF32, as validation of a checkpoint is."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9998
    """Average of the weights that is validated and shipped, with a warm-up; 0 switches it off."""
    clip_norm: Annotated[float, Field(ge=0)] = 100.0
    """Bound on the gradient's norm, which starts near 50 and settles near 5; 0 switches it off."""
    log_interval: Positive = 20
    """Steps between lines of the log."""
    val_interval: Positive = 5
    """Epochs between validations; the last epoch is always validated."""
    save_interval: NotNegative = 1000
    """Steps between checkpoints within an epoch, besides the one after each; 0 for none."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints to resume from that are kept: if the newest cannot be read, the one before it is taken."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Action where a loss or gradient is infinite or no number, which never reaches the weights. stop: save the
    batch and say who is likely to blame; skip: leave the step out, up to 20 times a run."""


def require_steps(config: TrainConfig) -> None:
    """Raise ConfigError for options that no step can be trained with.

    A checkpoint may hold them, from a version that did not refuse them, and is read all the same.
    """
    # Gradients lie where the next replay of the graph writes: https://github.com/pytorch/pytorch/issues/169545
    if config.compile == "reduce-overhead" and config.accumulate > 1:
        raise ConfigError(
            "train.compile=reduce-overhead cannot keep the gradients of a step's parts; set train.accumulate=1, or "
            "train.compile=default."
        )


class EvalConfig(Section):
    """Selection of detections, in validation and everywhere else."""

    batch_size: Positive = 32
    score_threshold: Fraction = 0.01
    """Detections below are dropped before suppression."""
    iou_threshold: Fraction = 0.5
    """IoU above which the weaker of two boxes of a class is suppressed."""
    candidates_per_class: Positive = 400
    """Best boxes of each class that enter suppression."""
    max_detections: Positive = 100
    """Detections of one image."""


class RunConfig(Section):
    """Folder, seed and logs of a run."""

    dir: FilePath = Path("runs")
    """Folder of all runs."""
    name: Annotated[str, Field(pattern=r"^[^/\\\\]+$")] | None = None
    """Folder of this run. Default: the name of the config file or data set, numbered if taken."""
    loggers: Annotated[list[str], AfterValidator(_distinct), BeforeValidator(_as_list)] = Field(
        default_factory=lambda: ["tensorboard"]
    )
    """Programs that the figures are logged to, besides metrics.jsonl: tensorboard, mlflow, wandb; [] for none."""
    seed: NotNegative = 0
    """Seed of new weights, the order of images, augmentation and sampling."""
    report: bool = True
    """Write report.html at the end, which takes some seconds; `ssdlite report` writes it at any time."""
