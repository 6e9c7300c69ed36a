"""The command train."""

from __future__ import annotations

import argparse
import contextlib
import copy
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppcls_ext.commands.interruption import interrupt_on_sigterm
from ppcls_ext.commands.make_lists import add_split_arguments, progress
from ppcls_ext.commands.options import add_config_arguments, command_parser, positive
from ppcls_ext.commands.source import Source, open_run
from ppcls_ext.config.folder import CONFIG, LISTS, find_run, folder_of
from ppcls_ext.config.lists import use_pictures
from ppcls_ext.config.load import load_config, override
from ppcls_ext.config.weights import require_no_earlier_training
from ppcls_ext.data.class_folders import LABEL_LIST, TRAIN_LIST, VAL_LIST, kept_lists, make_lists
from ppcls_ext.training.start import set_up


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext train`."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.config is None and not args.resume:
        parser.error("expected -c FILE, or --resume RUN")
    print(f"{args.config or args.resume}: loading Paddle and PaddleClas", flush=True)  # which takes some seconds
    source = _read(args)
    config = source.config
    set_up()
    interrupt_on_sigterm()
    from ppcls_ext.config.prepare import prepare

    config["profiler_options"] = args.profiler_options
    if not args.verbose:
        from ppcls_ext.training.terminal import quiet_host

        quiet_host()
    if args.overwrite or args.check_images:
        config["Global"]["overwrite"] = True
    if args.report:
        config["Global"]["report"] = True
    from ppcls_ext.training.terminal import TrainingOnTerminal

    with _new_lists(source, args):
        prepared = prepare(copy.deepcopy(config), "train", source.folder)
        if args.check_images:
            from ppcls_ext.commands.check_images import check_images

            check_images(config, "train")  # the lists as they are written, not PaddleClas's copies
            return
        from ppcls_ext.training.engine import Engine

        engine = Engine(prepared, "train")
    with contextlib.nullcontext() if args.verbose else TrainingOnTerminal(engine).shown():
        engine.train()


@contextlib.contextmanager
def _new_lists(source: Source, args: argparse.Namespace) -> Iterator[None]:
    """Where what is inside fails, the lists of --data are removed again, unless they are those of a run."""
    folder = (source.folder or folder_of(source.config)) / LISTS
    try:
        yield
    except BaseException:
        if args.data is not None and not (folder.parent / CONFIG).exists():
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # only empty ones
                folder.parent.rmdir()
                folder.parent.parent.rmdir()
        raise


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "train",
        "train -c MobileOne_S0 --data flowers/ --size 128",
        "train -c MobileOne_S0 -o Global.epochs=20",
        "train --resume output/MobileOne_S0",
        description="It writes its settings, its log and its weights to output/ARCH.",
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--data", metavar="FOLDER", help="your own pictures, one folder a class, instead of the lists")
    add_split_arguments(parser)
    parser.add_argument("--size", type=positive, metavar="PX", help="side of the pictures, set in every place")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="RUN",
        help="go on with the run of this command, or with the one in the folder RUN",
    )
    patience = "end the training after N epochs without a better evaluation"
    parser.add_argument("--patience", type=positive, metavar="N", help=patience)
    parser.add_argument("--report", action="store_true", help="at the end, a report of the best evaluation (HTML)")
    parser.add_argument(
        "--overwrite", action="store_true", help="train anew where an earlier training's checkpoints are"
    )
    parser.add_argument(
        "--check-images", action="store_true", help="only decode every image of the lists, and name unreadable ones"
    )
    profiler = 'PaddleClas\'s profiler, e.g. "batch_range=[10, 20]"'
    parser.add_argument("-p", "--profiler_options", metavar="KEY=VALUE;…", help=profiler)
    parser.add_argument("-v", "--verbose", action="store_true", help="show PaddleClas's own output")
    return parser


def _read(args: argparse.Namespace) -> Source:
    """The configuration with what the options change."""
    changes = [f"Global.{field}={value}" for field, value in _fields(args).items() if value is not None]
    if isinstance(args.resume, str):
        run = find_run(args.resume)
        config = open_run(run, []) if args.config is None else load_config(args.config)
        run.adopt(config)
    else:
        run, config = None, load_config(args.config)
    override(config, [*changes, *args.override])
    if args.resume:
        config["Global"]["checkpoints"] = "latest"
    source = Source(config, run)
    if args.data is not None:
        _use_data(args, source)
    return source


def _fields(args: argparse.Namespace) -> dict[str, int | None]:
    return {"image_size": args.size, "patience": args.patience}


def _use_data(args: argparse.Namespace, source: Source) -> None:
    folder = (source.folder or folder_of(source.config)) / LISTS
    if args.resume and all((folder / name).is_file() for name in (TRAIN_LIST, VAL_LIST, LABEL_LIST)):
        made = kept_lists(Path(args.data), folder)
    else:
        if not (args.overwrite or args.resume or source.config["Global"].get("overwrite")):
            require_no_earlier_training(folder.parent)
        with progress("reading pictures") as report:
            made = make_lists(args.data, folder, args.val_share, args.split_seed, report)
        for line in made.lines():
            print(line)
    use_pictures(source.config, made)
    override(source.config, args.override)  # what the user says himself counts
