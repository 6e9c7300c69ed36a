"""The command eval."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.commands.options import (
    add_check_images_argument,
    add_config_arguments,
    add_threshold_argument,
    check_images,
    command_parser,
    load_host,
    open_source,
    positive,
)
from ppcls_ext.config.folder import read_record
from ppcls_ext.data.image_input import TTA
from ppcls_ext.errors import NoSuchRunError, PpclsExtError, printable, printable_lines
from ppcls_ext.predict.runtimes import RUNTIMES, is_exported
from ppcls_ext.report.measured import Comparison, class_table
from ppcls_ext.run import Run, compare
from ppcls_ext.weights.checkpoint_sets import is_saved


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext eval`."""
    parser = _parser()
    args = _parse(parser, argv)
    if args.check_images:
        run = _open_run(parser, args, args.names[0] if args.names else None)
        load_host(args.config or run.folder)
        check_images(run if args.data is None else run.on(args.data), "eval", verbose=args.verbose)
        return
    # the document alone goes to stdout: what is said of the work, by PaddleClas too, stands on stderr
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        results = _evaluate(parser, args)
    if args.json:
        documents = [result.as_dict(args.per_class) for result in results]
        print(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2, ensure_ascii=False))
        return
    if len(results) > 1:
        print(printable_lines(results))
    for result in results:
        if len(results) == 1:
            print(printable_lines(result))
        if args.per_class:
            print("\n".join([*([printable(result.model)] if len(results) > 1 else []), *class_table(result)]))
        if result.page is not None:
            print(f"report: {printable(str(result.page))}")


def _evaluate(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Comparison:
    models = [_open(parser, args, name) for name in (args.names or [None])]
    if args.bf16:  # beside float32, which it is to be compared with
        models = [one for model in models if isinstance(model, Run) for one in (model, model.in_bfloat16())]

    def announce(run: Run) -> None:
        load_host(args.config or run.folder)
        print(f"weights: {printable(_weights_of(run))}", flush=True)

    options = {"topk": args.topk, "threshold": args.threshold and dict(args.threshold), "tta": args.tta}
    places = {"announce": announce, "runtime": args.runtime, "report": args.report, "verbose": args.verbose}
    return compare(models, args.data, **places, **options)


def _open(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str | None) -> Run | str:
    return name if name is not None and is_exported(name) else _open_run(parser, args, name)


def _open_run(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str | None) -> Run:
    one = argparse.Namespace(**{**vars(args), "names": name})
    try:
        return open_source(parser, one)[0]
    except NoSuchRunError as error:
        if name is None or not Path(name).is_file():
            raise
        raise PpclsExtError(
            f"{name} is neither in the folder of a run nor an exported file: for other weights name the architecture "
            f"and its classes, ppcls-ext eval -c NAME -o Global.pretrained_model={name} Arch.class_num=N --data …"
        ) from error


def _weights_of(run: Run) -> str:
    """The weights that an evaluation takes, and what they are, where the run does not make it plain."""
    weights = run.settings.section("Global").get("pretrained_model")
    if not weights:
        return "random, as there is no Global.pretrained_model"
    if run.settings.given_folder is None:
        return str(weights)
    name, averages = Path(str(weights)).name.removesuffix(".pdparams"), run.settings.section("Recipe").get("ema")
    averaged = (read_record(run.folder) or {}).get("averaged")
    if averaged and name == "best_model":
        return f"{weights}, the average of {len(averaged)} trainings"
    what = {
        "best_model": "those of the best evaluation" + (", a moving average (Recipe.ema)" if averages else ""),
        "latest.ema": "the moving average (Recipe.ema) behind the last epoch" + _why_the_last(run),
        "latest": "those behind the last epoch" + _why_the_last(run),
    }.get(name)
    return f"{weights}, {what}" if what else str(weights)


def _why_the_last(run: Run) -> str:
    chosen = is_saved(run.folder / "best_model.pdparams")
    return "" if chosen else ": no evaluation has chosen a best one"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "eval",
        "eval output/MobileOne_S0",
        "eval output/MobileOne_S0 --data flowers/test --per-class",
        "eval float32.onnx int8.onnx --data flowers/test",
        "eval -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model",
        description="An exported file needs no Paddle. Several MODELs give one table.",
    )
    model = "folder that a training wrote, weights in it, file of export or export-onnx, or folder of export-model"
    parser.add_argument("names", nargs="*", metavar="MODEL", help=model)
    add_config_arguments(parser)
    data = "labelled images: a folder with one folder per class, named as the model's classes, an image list, or a "
    data += "run, whose held-out images are taken (default: those of the first run that is named)"
    parser.add_argument("--data", metavar="FOLDER|LIST|RUN", help=data)
    topk = "a further accuracy (default: 5, where there are more classes)"
    parser.add_argument("--topk", type=positive, metavar="K", help=topk)
    threshold = "answer only from this probability on: says how many images are answered, and how many of these right; "
    threshold += "of several labels an image as in predict"
    add_threshold_argument(parser, threshold)
    views = "average the scores of an image and its mirror image, or of ten crops"
    parser.add_argument("--tta", choices=TTA, help=views)
    parser.add_argument("--runtime", choices=RUNTIMES, help="of a file (default: its own, else onnxruntime)")
    mixed = "of a run: measure it in bfloat16, too, on a processor that has it"
    parser.add_argument("--bf16", action="store_true", help=mixed)
    parser.add_argument("--per-class", action="store_true", help="table of precision, recall and F1, the worst first")
    parser.add_argument("--json", action="store_true", help="print one JSON document, and nothing else on stdout")
    report = "write confusions, mistakes, calibration and one HTML page (default: report-eval in the run's folder)"
    parser.add_argument("--report", nargs="?", const=True, metavar="FOLDER", help=report)
    add_check_images_argument(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="show PaddleClas's own output")
    parser.usage = "ppcls-ext eval MODEL [MODEL …] [--data FOLDER|LIST|RUN] [options]"
    return parser


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    args = parser.parse_intermixed_args(argv)
    if not args.names and args.config is None:
        parser.error("expected a MODEL: a run, weights in it or an exported file, or -c FILE")
    if args.names and args.config is not None:
        parser.error(f"got both {args.names[0]} and -c {args.config}: expected one of them")
    if len(args.names) > 1 and (args.report or args.check_images):
        parser.error(f"{'--report' if args.report else '--check-images'} is for one MODEL")
    files = [name for name in args.names if is_exported(name)]
    if files and (args.check_images or args.override):
        option = "--check-images" if args.check_images else "-o"
        parser.error(f"{option} is for a run or -c FILE, and {files[0]} is an exported file")
    if files and args.bf16:
        parser.error(f"--bf16 is for a run or -c FILE, and {files[0]} is an exported file")
    if args.bf16 and args.report:
        parser.error("--report is of one result, and --bf16 gives two")
    if args.runtime and not files:
        parser.error("--runtime is for exported files")
    return args
