"""The commands eval, infer and export-model, on PaddleClas's engine."""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Sequence

from ppcls_ext.commands.interruption import interrupt_on_sigterm
from ppcls_ext.commands.options import RESULTS_HELP, SAVE_IMAGE_HELP, command_parser, results_file
from ppcls_ext.commands.source import add_source_arguments, read_source
from ppcls_ext.training.start import set_up

#: By mode: the command's name, and examples.
COMMANDS = {
    "eval": (
        *("eval", "eval output/MobileOne_S0"),
        "eval -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model",
    ),
    "infer": (
        *("infer", "infer output/MobileOne_S0 flower.jpg photos/"),
        "infer -c MobileOne_S0 flower.jpg -o Global.pretrained_model=output/MobileOne_S0/best_model",
    ),
    "export": (
        *("export-model", "export-model output/MobileOne_S0"),
        "export-model -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model "
        "Global.save_inference_dir=inference",
    ),
}


#: Paddle's switch between the two formats of a program.
PIR = "FLAGS_enable_pir_api"


def evaluate(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext eval`."""
    _run("eval", argv)


def infer(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext infer`."""
    _run("infer", argv)


def export(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext export-model`."""
    _run("export", argv)


def _run(mode: str, argv: Sequence[str] | None) -> None:
    parser = _parser(mode)
    args = parser.parse_args(argv)
    source = read_source(parser, args)
    config = source.config
    for option, field in (("out", "save_dir"), ("save_image", "save_image")):
        if value := getattr(args, option, None):
            config.setdefault("Infer", {})[field] = value
    if getattr(args, "format", None):
        os.environ[PIR] = "1" if args.format == "json" else "0"  # read when Paddle is loaded
    print(f"{args.config or source.folder}: loading Paddle and PaddleClas", flush=True)  # which takes some seconds
    set_up()
    interrupt_on_sigterm()
    from ppcls_ext.config.prepare import prepare
    from ppcls_ext.training.terminal import quiet_host

    if not args.verbose:
        quiet_host()
    prepared = prepare(copy.deepcopy(config), mode, source.folder)
    if getattr(args, "check_images", False):
        from ppcls_ext.commands.check_images import check_images

        check_images(config, mode)  # the lists as they are written, not PaddleClas's copies
        return
    from ppcls_ext.training.engine import Engine
    from ppcls_ext.training.reports import EvaluationReport

    target = prepared["Global"].get("save_inference_dir")
    engine = Engine(prepared, mode)
    report = EvaluationReport(engine, args.report) if getattr(args, "report", None) else None
    getattr(engine, mode)()
    if mode == "export":
        from ppcls_ext.commands.inference_yml import write_inference_yml

        write_inference_yml(config, target)
    if mode == "eval" and not args.verbose:
        for evaluation in engine.evaluations:
            print(evaluation)
    if report is not None:
        print(f"report: {report.write()}")


def _parser(mode: str) -> argparse.ArgumentParser:
    parser = command_parser(*COMMANDS[mode])
    add_source_arguments(parser, pictures=mode == "infer")
    if mode == "eval":
        parser.add_argument(
            "--check-images", action="store_true", help="only decode every image of the lists, and name unreadable ones"
        )
        parser.add_argument(
            "--report",
            nargs="?",
            const=True,
            metavar="FOLDER",
            help="write confusions, mistakes, calibration and one HTML page (default: report in the run's folder)",
        )
    if mode == "infer":
        parser.add_argument("--out", metavar="FILE", type=results_file, help=RESULTS_HELP)
        parser.add_argument("--save-image", metavar="PNG|FOLDER", help=SAVE_IMAGE_HELP)
    if mode == "export":
        parser.add_argument(
            "--format",
            choices=("json", "pdmodel"),
            help="of the program: Paddle 3's inference.json, or the older inference.pdmodel, which PaddleClas's "
            "predict_cls.py and the paddleclas package read (default: Paddle's own, json)",
        )
    parser.add_argument("-v", "--verbose", action="store_true", help="show PaddleClas's own output")
    return parser
