"""The command lines of tools/train.py, eval.py, infer.py and export_model.py; they are PaddleClas's."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence

from ppcls_ext.commands.interruption import interrupt_on_sigterm
from ppcls_ext.commands.options import add_config_arguments
from ppcls_ext.configuration.load import load_config
from ppcls_ext.engine.start import set_up

DESCRIPTIONS = {
    "train": "Trains a model with PaddleClas's engine.",
    "eval": "Evaluates a model with PaddleClas's engine.",
    "infer": "Prints the classes of pictures.",
    "export": "Fuses a model and writes it for Paddle Inference.",
}
EXAMPLES = {
    "train": "python tools/train.py -c configs/MobileOne_S0.yml -o Global.epochs=20",
    "eval": (
        "python tools/eval.py -c configs/MobileOne_S0.yml -o Global.pretrained_model=output/MobileOne_S0/best_model"
    ),
    "infer": (
        "python tools/infer.py -c configs/MobileOne_S0.yml "
        "-o Global.pretrained_model=output/MobileOne_S0/best_model Infer.infer_imgs=flower.jpg"
    ),
    "export": (
        "python tools/export_model.py -c configs/MobileOne_S0.yml "
        "-o Global.pretrained_model=output/MobileOne_S0/best_model Global.save_inference_dir=inference"
    ),
}


def train(argv: Sequence[str] | None = None) -> None:
    """Trains; the command line of tools/train.py."""
    _run("train", argv)


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Evaluates; the command line of tools/eval.py."""
    _run("eval", argv)


def infer(argv: Sequence[str] | None = None) -> None:
    """Infers; the command line of tools/infer.py."""
    _run("infer", argv)


def export(argv: Sequence[str] | None = None) -> None:
    """Exports; the command line of tools/export_model.py."""
    _run("export", argv)


def _run(mode: str, argv: Sequence[str] | None) -> None:
    args = _parse(mode, argv)
    config = load_config(args.config, args.override)
    set_up()
    interrupt_on_sigterm()
    from ppcls_ext.configuration.prepare import prepare

    config["profiler_options"] = getattr(args, "profiler_options", None)
    prepared = prepare(copy.deepcopy(config), mode)
    if getattr(args, "check_images", False):
        from ppcls_ext.commands.check_images import check_images

        check_images(config, mode)  # the lists as they are written, not PaddleClas's copies
        return
    from ppcls_ext.engine.engine import Engine

    engine = Engine(prepared, mode)
    getattr(engine, mode)()


def _parse(mode: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTIONS[mode],
        epilog=f"example:\n  {EXAMPLES[mode]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    if mode in ("train", "eval"):
        parser.add_argument(
            "--check-images", action="store_true", help="only decode every image of the lists, and name unreadable ones"
        )
    if mode == "train":
        profiler = 'PaddleClas\'s profiler, e.g. "batch_range=[10, 20]"'
        parser.add_argument("-p", "--profiler_options", metavar="KEY=VALUE;…", help=profiler)
    return parser.parse_args(argv)
