"""The commands train, eval, infer and export-model; their options are PaddleClas's."""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Sequence

from ppcls_ext.commands.interruption import interrupt_on_sigterm
from ppcls_ext.commands.options import add_config_arguments, command_parser
from ppcls_ext.configuration.load import load_config
from ppcls_ext.engine.start import set_up

#: By mode: the command's name, and an example.
COMMANDS = {
    "train": ("train", "train -c MobileOne_S0 -o Global.epochs=20"),
    "eval": ("eval", "eval -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model"),
    "infer": (
        "infer",
        "infer -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model Infer.infer_imgs=flower.jpg",
    ),
    "export": (
        "export-model",
        "export-model -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model "
        "Global.save_inference_dir=inference",
    ),
}


#: Paddle's switch between the two formats of a program.
PIR = "FLAGS_enable_pir_api"


def train(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext train`."""
    _run("train", argv)


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
    args = _parse(mode, argv)
    if getattr(args, "format", None):
        os.environ[PIR] = "1" if args.format == "json" else "0"  # read when Paddle is loaded
    config = load_config(args.config, args.override)
    print(f"{args.config}: loading Paddle and PaddleClas", flush=True)  # which takes some seconds
    set_up()
    interrupt_on_sigterm()
    from ppcls_ext.configuration.prepare import prepare

    if getattr(args, "overwrite", False) or getattr(args, "check_images", False):
        config.setdefault("Global", {})["overwrite"] = True
    config["profiler_options"] = getattr(args, "profiler_options", None)
    prepared = prepare(copy.deepcopy(config), mode)
    if getattr(args, "check_images", False):
        from ppcls_ext.commands.check_images import check_images

        check_images(config, mode)  # the lists as they are written, not PaddleClas's copies
        return
    from ppcls_ext.engine.engine import Engine

    target = prepared["Global"].get("save_inference_dir")
    engine = Engine(prepared, mode)
    getattr(engine, mode)()
    if mode == "export":
        from ppcls_ext.commands.inference_yml import write_inference_yml

        write_inference_yml(config, target)


def _parse(mode: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(*COMMANDS[mode])
    add_config_arguments(parser)
    if mode in ("train", "eval"):
        parser.add_argument(
            "--check-images", action="store_true", help="only decode every image of the lists, and name unreadable ones"
        )
    if mode == "train":
        parser.add_argument(
            "--overwrite", action="store_true", help="train anew where an earlier training's checkpoints are"
        )
        profiler = 'PaddleClas\'s profiler, e.g. "batch_range=[10, 20]"'
        parser.add_argument("-p", "--profiler_options", metavar="KEY=VALUE;…", help=profiler)
    if mode == "export":
        parser.add_argument(
            "--format",
            choices=("json", "pdmodel"),
            help="of the program: Paddle 3's inference.json, or the older inference.pdmodel, which PaddleClas's "
            "predict_cls.py and the paddleclas package read (default: Paddle's own, json)",
        )
    return parser.parse_args(argv)
