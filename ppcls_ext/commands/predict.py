"""The commands predict and infer, which are one: classifies images or a video with an exported file or a run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ppcls_ext.commands.options import (
    add_config_arguments,
    add_results_arguments,
    add_threshold_argument,
    command_parser,
    load_host,
    load_paddle,
    open_run_with_weights,
    positive,
    size,
)
from ppcls_ext.data.image_files import MAGIC, find_images
from ppcls_ext.errors import NoSuchRunError, PpclsExtError, message_line, printable
from ppcls_ext.files import atomic_write
from ppcls_ext.predict.answers import Choice
from ppcls_ext.predict.classifier import BATCH, Classified, Classifier, classify
from ppcls_ext.predict.readable import Lines
from ppcls_ext.predict.results import JsonArray, ResultsWriter, identity_of, open_results
from ppcls_ext.predict.runtimes import RUNTIMES, is_exported, runtime_for
from ppcls_ext.predict.video import Video, classify_video, clock
from ppcls_ext.progress import Report, progress, say
from ppcls_ext.report.image_figures import SavedImages, shrunk

if TYPE_CHECKING:
    from ppcls_ext.config.settings import RunSettings
    from ppcls_ext.run import Run

#: Files of weights, which only the settings of a run make a network of.
WEIGHTS = (".pdparams", ".pth", ".tar", ".pt", ".safetensors", ".npz")


class Network(NamedTuple):
    """What classifies: an exported file, a run that is like one, or a run that PaddleClas's own inference needs.

    Attributes:
        classifier: of a file, or of a run that is like one; else None.
        run: None for a file.
        task: "single-label" or "multi-label".
        class_names: by class index; None where unknown.
    """

    classifier: Classifier | None
    run: Run | None
    task: str
    class_names: tuple[str, ...] | None


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext predict`."""
    return _main("predict", argv)


def infer(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext infer`, the same by PaddleClas's name."""
    return _main("infer", argv)


def _main(name: str, argv: Sequence[str] | None) -> int:
    args = _parse(name, argv)
    if args.paddleclas:
        run = _open_run(args)
        load_host(args.config or run.folder)
        threshold = args.threshold and dict(args.threshold)
        run.infer(args.images, out=args.out, save_image=args.save_image, threshold=threshold, verbose=args.verbose)
        return 0
    if os.environ.get("PADDLE_TRAINERS_NUM", "1") not in ("", "1"):  # of paddle.distributed.launch
        raise PpclsExtError(f"ppcls-ext {name} runs in one process: several would all do the same images")
    network = _open(args)
    return _predict(args, network) if args.video is None else _predict_video(args, network)


def _predict(args: argparse.Namespace, network: Network) -> int:
    files = _find(args, network)
    saved = SavedImages(args.save_image, files, network.task) if args.save_image else None
    each = _classified(args, network)
    keep = shrunk if saved is not None else None
    failed = 0
    with _outputs(args, network, files) as (files, write, report):
        for done, (file, result, image) in enumerate(each(files, keep=keep), 1):
            report(done, len(files))
            if isinstance(result, PpclsExtError):
                failed += 1
                say(f"error: {message_line(result)}")
                continue
            if saved is not None and image is not None:
                _require_classes(result, "--save-image draws")
                saved.add(file, image, result)
            write({"file_name": str(file), **result})
        if saved is not None and (line := saved.finish()):
            say(printable(line))
    return 1 if failed else 0


def _classified(args: argparse.Namespace, network: Network) -> Callable[..., Iterator[Classified]]:
    """Returns the function that classifies files."""
    threshold = args.threshold and dict(args.threshold)
    if network.run is not None:
        options = {"topk": args.topk, "threshold": threshold, "batch_size": args.batch_size, "verbose": args.verbose}
        return partial(network.run.classify, **options)
    assert network.classifier is not None
    choose = Choice(network.classifier.metadata, args.topk, threshold)
    size = network.classifier.batch or args.batch_size or BATCH
    return partial(classify, network.classifier, batch_size=size, choose=choose)


def _open(args: argparse.Namespace) -> Network:
    """Opens MODEL.

    Raises:
        PpclsExtError: it is none, or an option does not belong to its kind.
    """
    if args.config is None and _is_exported(Path(args.model)):
        if args.override or args.verbose:
            raise PpclsExtError(f"{args.model} is an exported file: -o and -v belong to a run or a configuration")
        classifier = Classifier(args.model, args.threads, args.runtime, args.bf16, args.size)
        if classifier.batch and args.batch_size not in (None, classifier.batch):
            raise PpclsExtError(
                f"--batch-size is {args.batch_size}, but {args.model} was exported for {classifier.batch}"
            )
        return Network(classifier, None, classifier.metadata.task, classifier.metadata.class_names)
    run = _open_run(args).in_bfloat16() if args.bf16 else _open_run(args)
    given = [f"--{name}" for name in ("runtime", "threads", "size") if getattr(args, name)]
    if given:
        raise PpclsExtError(f"{' and '.join(given)}: for exported files; {args.config or args.model} is run by Paddle")
    settings = run.settings
    _take_places(args, settings)
    if settings.is_like_a_file:
        print(f"{printable(str(args.config or args.model))}: loading Paddle", file=sys.stderr, flush=True)
        load_paddle()
        classifier = run.classifier()
        return Network(classifier, run, classifier.metadata.task, classifier.metadata.class_names)
    if args.video is not None:
        raise PpclsExtError(
            f"--video needs an exported file, or a run of this project's models with plain transforms; "
            f"{args.config or args.model} has {settings.arch.name}, and is run by PaddleClas's own inference"
        )
    load_host(args.config or run.folder, sys.stderr)
    return Network(None, run, settings.task, settings.class_names)


def _take_places(args: argparse.Namespace, settings: RunSettings) -> None:
    """Takes `Infer.save_dir` and `Infer.save_image` for options that are not given; see `require_own_place`."""
    if args.video is not None:
        return
    for option, field, shown in (("out", "save_dir", "--out FILE"), ("save_image",) * 2 + ("--save-image PNG|FOLDER",)):
        if getattr(args, option) is None:
            settings.require_own_place("Infer", field, shown)
            setattr(args, option, settings.section("Infer").get(field) or None)


def _is_exported(path: Path) -> bool:
    """Returns whether a path is a file or folder that an export wrote, rather than a run or weights in one."""
    return is_exported(path) or (path.is_file() and path.suffix not in WEIGHTS)


def _open_run(args: argparse.Namespace) -> Run:
    if args.config is not None:
        from ppcls_ext.config.settings import open_config
        from ppcls_ext.run import Run

        return Run(open_config(args.config, args.override))
    try:
        return open_run_with_weights(args.model, args.override)
    except NoSuchRunError as error:
        if Path(args.model).is_file():
            raise PpclsExtError(
                f"{args.model} holds weights, and no config.yml beside it says how to use them: give the folder of a "
                f"run, or -c NAME -o Global.pretrained_model={args.model}"
            ) from error
        raise PpclsExtError(f"{error}; or an ONNX file, or a folder that export-model wrote") from error


def _find(args: argparse.Namespace, network: Network) -> list[Path]:
    """The image files, in the order of their names; those of `Infer.infer_imgs` where a configuration has some."""
    if not args.images:
        assert network.run is not None
        from ppcls_ext.training.inference import images_to_infer

        section = network.run.settings.section("Infer")
        if not section.get("infer_imgs"):
            raise PpclsExtError("there are no images: name some behind the model, or as Infer.infer_imgs")
        return list(map(Path, images_to_infer(section["infer_imgs"], section.get("infer_list"))))
    names: list[str | Path] = []
    for name in args.images:
        names += _names_on_stdin() if name == "-" else [name]
    return find_images(names)


def _names_on_stdin() -> list[Path]:
    """The names of files and folders on stdin, one a line, or each behind a NUL (`find -print0`)."""
    data = sys.stdin.buffer.read()
    if any(data.startswith(magic) for magic in MAGIC):
        raise PpclsExtError("stdin holds an image: expected the names of images, one a line")
    names = data.split(b"\0") if b"\0" in data else [line.rstrip(b"\r") for line in data.split(b"\n")]
    found = [Path(os.fsdecode(name)) for name in names if name]
    if not found:
        raise PpclsExtError("stdin holds no names: expected those of images, one a line")
    return found


@contextlib.contextmanager
def _outputs(
    args: argparse.Namespace, network: Network, files: list[Path]
) -> Iterator[tuple[list[Path], Callable[[dict[str, Any]], None], Report]]:
    """Yields the files whose results --out does not hold yet, and the functions that take a result and the progress."""
    with contextlib.ExitStack() as stack:
        takers: list[Callable[[dict[str, Any]], None]] = []
        if args.out:
            resume = _identity(args, network) if args.resume else None
            writer = stack.enter_context(open_results(args.out, resume))
            files = [file for file in files if not writer.holds(str(file))]
            takers.append(writer.add)
        is_chosen = bool(args.topk or args.threshold) or network.task != "single-label"
        lines = Lines(map(str, files), network.class_names, is_chosen)
        document = table = None
        if args.json:
            document = JsonArray(sys.stdout, indent=2, allow_nan=False)
            takers.append(document.add)
        elif args.csv:
            table = ResultsWriter(sys.stdout, is_csv=True)
            takers.append(table.add)
        else:
            takers.append(lambda result: print(lines.line(result["file_name"], result)))
        # on a terminal the lines themselves show how far it is
        is_shown = document is None and sys.stdout.isatty()
        report: Report = _no_report if is_shown else stack.enter_context(progress("predicting"))

        def write(result: dict[str, Any]) -> None:
            if table is not None or (args.out and args.out.lower().endswith(".csv")):
                _require_classes(result, "a .csv file holds")
            for take in takers:
                take(result)

        yield files, write, report
        if document is not None:
            document.end()
            print()


def _no_report(done: int, total: int) -> None:
    pass


def _require_classes(result: dict[str, Any], does: str) -> None:
    if "class_ids" not in result:
        raise PpclsExtError(
            f"{does} classes and scores, and Infer.PostProcess gives {', '.join(result)}: expected Topk"
        )


def _identity(args: argparse.Namespace, network: Network) -> str:
    """Names the network and the options that its results depend on."""
    if network.run is None:
        runtime = runtime_for(args.model, args.runtime)
        return identity_of(args.model, args.topk, args.threshold, runtime, args.bf16, *(args.size or ()))
    settings = network.run.settings
    weights = settings.deployed.weights() if settings.deployed.arch.is_ours else None
    if weights is None:
        raise PpclsExtError(
            "--resume needs an exported file, or a run of this project's models, with weights that can be told apart"
        )
    fields = json.dumps([settings.section("Arch"), settings.section("Infer")], default=str)
    return identity_of(weights.content, args.topk, args.threshold, fields)


def _predict_video(args: argparse.Namespace, network: Network) -> int:
    classifier = network.classifier
    assert classifier is not None
    topk = args.topk or (None if network.run is None or args.threshold else network.run.settings.topk)
    choose = Choice(classifier.metadata, topk, args.threshold and dict(args.threshold))
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(Video(args.video, args.every))
        write = _frame_writer(stack, args.out)
        say(printable(str(video)))
        if video.is_camera:
            say("Ctrl-C ends it")
        lines = Lines(
            ["0:00:00"], network.class_names, bool(args.topk or args.threshold) or network.task != "single-label"
        )
        count, failure = 0, None
        try:
            for second in classify_video(classifier, video, choose):
                for frame in second.frames:
                    write(frame)
                count += len(second.frames)
                print(lines.line(clock(second.start), second.result), flush=True)
        except KeyboardInterrupt:
            if not video.is_camera:
                raise
        except PpclsExtError as error:
            if not count:
                raise
            failure = error  # the results of the frames before are whole, and stay
    if args.out:
        say(printable(f"{args.out}: {count} frames"))
    if failure is not None:
        raise failure
    return 0


def _frame_writer(stack: contextlib.ExitStack, path: str | None) -> Callable[[dict[str, Any]], None]:
    """Returns the function that writes a frame's result as a line of JSON, to a file that is whole in the end."""
    if path is None:
        return lambda frame: None
    stream = stack.enter_context(atomic_write(path, "w", encoding="utf-8", newline="\n"))
    return lambda frame: print(json.dumps(frame, ensure_ascii=False, allow_nan=False), file=stream)


def _parse(name: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        name,
        f"{name} MobileOne_S0.onnx flower.jpg photos 'more/*.png'",
        f"{name} output/MobileOne_S0 photos --topk 1 --out results.csv",
        f"{name} MobileOne_S0.onnx --video clip.mp4 --out frames.jsonl",
        f"{name} MobileOne_S0.onnx - < names.txt",
        description="MODEL is a file of export-onnx (needs no Paddle), the folder of export-model, the folder of a "
        "run, or weights in it; or -c and -o name one. predict and infer are the same.",
    )
    parser.usage = f"ppcls-ext {name} MODEL IMAGE… [options]\n       ppcls-ext {name} MODEL --video FILE|N [options]"
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="image, folder or quoted pattern; - for names on stdin")
    add("--model", metavar="MODEL", help="the model (default: the first argument)")
    add_config_arguments(parser)
    add("--topk", type=positive, metavar="K", help="most classes an image (default: 5, or by threshold)")
    add_threshold_argument(parser)
    add("--json", action="store_true", help="print one JSON document instead of a line an image")
    add("--csv", action="store_true", help="print a table instead, with a line an image and class")
    add_results_arguments(parser)
    add("--resume", action="store_true", help="with --out: go on where it was interrupted")
    video = "a video file, or camera N until Ctrl-C: prints the mean of each second; --out FILE.jsonl has each frame"
    add("--video", metavar="FILE|N", help=video)
    add("--every", type=positive, metavar="N", help="look at one frame of N (default: about 2 a second)")
    add("--batch-size", type=positive, metavar="N", help="images at once (default: the model's, or 8)")
    add("--threads", type=positive, metavar="N", help="of a file's runtime (default: its own choice)")
    add("--runtime", choices=RUNTIMES, help="of a file (default: its own, else onnxruntime)")
    free = "of a MODEL for any size: that of all images, a side or HEIGHTxWIDTH (default: their own)"
    add("--size", type=size, metavar="PX", help=free)
    add("--bf16", action="store_true", help="compute in bfloat16: a run, or with --runtime openvino")
    add("--paddleclas", action="store_true", help="print PaddleClas's own lists, as tools/infer.py does")
    add("-v", "--verbose", action="store_true", help="of a run: show PaddleClas's own output")
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    is_file = args.config is None and args.model is not None and _is_exported(Path(args.model))
    if args.bf16 and is_file and args.runtime != "openvino":
        parser.error("--bf16 of an exported file belongs to --runtime openvino")
    if args.json and args.csv:
        parser.error("--json and --csv: choose one")
    if args.resume and (args.out is None or args.save_image):
        parser.error("--resume belongs to --out, and excludes --save-image, which would draw over earlier images")
    if args.config is not None and args.model is not None:
        parser.error(f"got both {args.model} and -c {args.config}: expected one of them")
    if args.config is None and args.model is None:
        if not args.images:
            parser.error("expected MODEL: an exported file, the folder of a run, or -c FILE")
        args.model, *args.images = args.images
    _check_video(parser, args)
    if args.paddleclas:
        taken = {"json", "csv", "resume", "topk", "batch_size", "runtime", "size", "threads", "video"}
        if wrong := [f"--{name.replace('_', '-')}" for name in sorted(taken) if getattr(args, name)]:
            parser.error(f"--paddleclas excludes {', '.join(wrong)}")
    elif not args.images and args.video is None and args.config is None and _is_exported(Path(args.model)):
        parser.error(f"expected a model and images, got {args.model} alone")


def _check_video(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    is_lines = args.out is not None and args.out.lower().endswith(".jsonl")
    if args.video is None:
        if args.every:
            parser.error("--every belongs to --video")
        if is_lines:
            parser.error(f"--out {args.out}: .jsonl belongs to --video; expected .csv or .json")
        return
    if args.images:
        parser.error(f"got --video {args.video} and {args.images[0]}: expected a video or images")
    if args.out is not None and not is_lines:
        parser.error(f"--out {args.out}: a video's frames are lines of JSON; expected a name that ends in .jsonl")
    for name in ("json", "csv", "resume", "save_image", "batch_size"):
        if getattr(args, name):
            parser.error(f"--{name.replace('_', '-')} is for images, not for --video")
