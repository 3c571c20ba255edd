"""The words of the command line. Every command imports what it needs inside, so that `--help` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ssdlite.errors import ConfigError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train, judge and ship MobileNetV2-SSDLite object detectors.",
    epilog="Every command takes --debug to show the traceback of an error.",
)

DEBUG = "--debug"

ConfigArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file and options that replace its own."),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options that replace the checkpoint's own.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def main() -> NoReturn:
    """Run the command line; errors that a person can mend end in one sentence and exit code 1 or 2."""
    debug = DEBUG in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    code = 0
    try:
        app(arguments, standalone_mode=True)
    except BrokenPipeError:  # `ssdlite show-config | head`
        sys.stderr.close()
        code = 141
    except UserError as error:
        if debug:
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        code = error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written
        if debug:
            raise
        print(
            f"error: {error.filename or 'a file could not be written'}: {error.strerror or error}.", file=sys.stderr
        )
        code = 1
    except KeyboardInterrupt:
        if debug:
            raise
        print("\ninterrupted", file=sys.stderr)
        code = 130
    # Outside the handlers: leaving from within them would keep the error's frames, and their processes, alive.
    sys.exit(code)


def _sentence(error: UserError) -> str:
    """The message; one that comes from a loader process has that process's traceback in front of it."""
    return str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")


@app.command()
def train(
    arguments: ConfigArguments = None,
    resume: Annotated[bool, typer.Option(help="Continue the latest run of this name where it stopped.")] = False,
    device: Device = "auto",
) -> None:
    """Train a detector. Without a config and data it draws its own data set and learns that in minutes.

    With data=PATH alone it trains on that folder with the defaults. Leaves runs/NAME with config.yaml, last.pt,
    best.pt, metrics.jsonl, TensorBoard events and samples.jpg. Several processes: torchrun -m ssdlite train ...
    """
    _show_log()
    from ssdlite.commands.train import train as run

    config, name = _read_config(arguments)
    run(config, default_name=name, resume=resume, device=device)


@app.command("eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A checkpoint, an exported .onnx, or a COCO result .json.")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="val or train.")] = "val",
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    detections: Annotated[Path | None, typer.Option(help="Write the detections here as COCO results.")] = None,
    device: Device = "auto",
) -> None:
    """Judge a model: COCO's 12 figures, VOC07 and VOC12 AP, and AP by class.

    A checkpoint and an .onnx know their data set; data=PATH names another one, and a result .json needs it.
    """
    _show_log()
    from ssdlite.commands.evaluate import evaluate as run

    run(model, overrides or [], split=split, json_path=json, detections_path=detections, device=device)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A checkpoint or an exported .onnx.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images and folders of images.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("predictions"),
    json: Annotated[Path | None, typer.Option(help="Write the detections here.")] = None,
    score_threshold: Annotated[float, typer.Option(min=0, max=1, help="Detections below are left out.")] = 0.4,
    device: Device = "auto",
) -> None:
    """Find objects in images: draws them into a folder and writes them as JSON."""
    _show_log()
    from ssdlite.commands.predict import predict as run

    run(model, inputs, output_dir=output, json_path=json, score_threshold=score_threshold, device=device)


@app.command("export-onnx")
def export_onnx(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint such as runs/NAME/best.pt.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Default: beside the checkpoint, with suffix .onnx.")] = None,
    head: Annotated[
        str, typer.Option(help="nms: final detections. decoded: boxes and scores. raw: logits.")
    ] = "nms",
    batch: Annotated[str, typer.Option(help="dynamic, or a number.")] = "dynamic",
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 18,
    verify: Annotated[bool, typer.Option(help="Compare with PyTorch on validation images.")] = True,
) -> None:
    """Write a checkpoint as ONNX and prove that onnxruntime gives PyTorch's answers."""
    _show_log()
    from ssdlite.commands.export import export_onnx as run

    run(checkpoint, overrides or [], output=output, head=head, batch=batch, opset=opset, verify=verify)


@app.command("export-web")
def export_web(
    model: Annotated[Path, typer.Argument(help="A checkpoint, or an exported .onnx of head nms.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Default: beside the model, with suffix .html.")] = None,
    runtime: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where 'npm install onnxruntime-web' was run.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page. Default: the model's name.")] = None,
    verify: Annotated[bool, typer.Option(help="Compare a checkpoint's network with PyTorch first.")] = True,
) -> None:
    """Write a model as one HTML page that finds objects in pictures and before the camera, in any browser.

    It opens from a disk, holds all that it needs and connects to nothing.
    """
    _show_log()
    from ssdlite.commands.export_web import export_web as run

    run(model, overrides or [], output=output, runtime_dir=runtime, title=title, verify=verify)


@app.command("import-checkpoint")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="A .pth file, or a frozen TensorFlow graph (.pb).")],
    output: Annotated[Path, typer.Option(help="The checkpoint to write.")],
    format: Annotated[str, typer.Option(help="auto, pytorch-ssd, tensorflow, mmdetection or lufficc.")] = "auto",
    class_names: Annotated[
        Path | None, typer.Option(help="A name a line, or a TensorFlow label map (.pbtxt).")
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(help="Side in pixels of a .pth file's network, if it is not its program's default."),
    ] = None,
) -> None:
    """Turn another program's MobileNetV2-SSDLite into a checkpoint that gives the same answers.

    It can be judged, exported, and be the start of a training: ssdlite train data=PATH model.weights=FILE
    model.dialect=tensorflow (or what it was imported as).
    """
    _show_log()
    from ssdlite.commands.checkpoints import import_checkpoint as run

    run(source, output=output, file_format=format, class_names_path=class_names, input_size=input_size)


@app.command("export-checkpoint")
def export_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of the dialect pytorch-ssd, lufficc or mmdetection.")
    ],
    output: Annotated[Path, typer.Option(help="The .pth file to write.")],
) -> None:
    """Write a checkpoint for the program whose dialect it has: import-checkpoint the other way round."""
    _show_log()
    from ssdlite.commands.checkpoints import export_checkpoint as run

    run(checkpoint, output=output)


@app.command("show-config")
def show_config(arguments: ConfigArguments = None) -> None:
    """Print the options that a training with the same arguments would use, as YAML."""
    config, _ = _read_config(arguments)
    print(config.to_yaml(), end="")


@app.command("make-data")
def make_data(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    images: Annotated[int, typer.Option(min=2, help="In all; a sixth of them for validation.")] = 1800,
    size: Annotated[int, typer.Option(min=32, help="Side of the images, pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed draws the same images.")] = 0,
) -> None:
    """Draw a data set in COCO layout: varied shapes over cluttered backgrounds."""
    _show_log()
    from ssdlite.commands.data import make_data as run

    run(directory, images=images, size=size, seed=seed)


@app.command("check-data")
def check_data(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG|PATH [KEY=VALUE]...", help="A YAML file, or a folder as for data=PATH."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all findings here.")] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write cleaned annotations into this new folder.")
    ] = None,
) -> None:
    """Find every mistake in a data set at once, in annotations and images; exit code 1 if training would refuse it.

    Boxes, classes, ids, sizes, unreadable or unusual images, and images that are there twice or in both splits.
    With --fix a cleaned copy of the annotations is written; the originals stay as they are.
    """
    _show_log()
    from ssdlite.commands.check_data import check

    path, overrides = _split_arguments(arguments)
    check(path, overrides, json_path=json, fixed_dir=fix)


@app.command()
def benchmark(
    arguments: ConfigArguments = None,
    only: Annotated[
        str | None, typer.Option(metavar="SECTION,...", help="loader, step, train, eval, infer. Default: all.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    quick: Annotated[bool, typer.Option(help="One run of each: shows that it works, not how fast.")] = False,
    device: Device = "auto",
) -> None:
    """Measure how fast this machine loads, trains, judges and predicts, and the memory that takes. Some minutes.

    Without data=PATH it draws photograph-like images; without a config the input is 300x300 and a batch 16 images.
    torchvision's SSDLite trains on the same batch for comparison. Nothing is fetched, and no run folder is made.
    """
    _show_log()
    from ssdlite.commands.benchmark import benchmark as run

    path, overrides = _split_arguments(arguments)
    run(path, overrides, only=only, json_path=json, quick=quick, device=device)


def _show_log() -> None:
    from ssdlite.commands.screen import show_log

    show_log()


def _read_config(arguments: list[str] | None) -> tuple[Any, str]:
    """The config that `[CONFIG] [KEY=VALUE]...` stands for, and a name for its runs."""
    from ssdlite.config import QUICKSTART_PATH, load_config

    path, overrides = _split_arguments(arguments)
    if path is not None:
        return load_config(path, overrides), path.stem
    own_data = any(text.startswith(("data=", "data.path=", "data.train=")) for text in overrides)
    config = load_config(None if own_data else QUICKSTART_PATH, overrides)
    return config, config.data.path.resolve().name if config.data.path else "run"


def _split_arguments(arguments: list[str] | None) -> tuple[Path | None, list[str]]:
    """`[CONFIG] [KEY=VALUE]...` as the two."""
    overrides = list(arguments or [])
    path = Path(overrides.pop(0)) if overrides and _is_path(overrides[0]) else None
    if stray := next((text for text in overrides if "=" not in text), None):
        raise ConfigError(f"'{stray}' is not of the form KEY=VALUE; the config file comes first, then options.")
    return path, overrides


def _is_path(argument: str) -> bool:
    return "=" not in argument or Path(argument).is_file()
