"""The sub-commands of `ppcls-ext`: where each one is, and what it does; nothing is loaded before its turn."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """One sub-command.

    Attributes:
        module: name of the module in `ppcls_ext.commands`.
        help: its purpose, in one line.
        function: in `module`; takes the arguments behind the command's name and returns an exit code or None.
    """

    module: str
    help: str
    function: str = "main"


#: In the order in which they are used. tools/NAME.py (with _ for -) are the same commands.
COMMANDS = {
    "doctor": Command("doctor", "say whether everything is there and works; with NAME or --data, try a training"),
    "models": Command("models", "list the models: parameters, multiply-adds, published accuracy, weights"),
    "train": Command("train", "train a model with PaddleClas's engine"),
    "average": Command("average", "average the weights of several trainings of one network, and evaluate the result"),
    "eval": Command("evaluate", "measure trained weights or exported files on labelled images"),
    "infer": Command("predict", "the same as predict, by PaddleClas's name", "infer"),
    "export-onnx": Command("export_onnx", "fuse a model and write it as an ONNX file that was proved equal"),
    "export": Command(
        "export", "write a model for phones or the web: LiteRT, Core ML, ncnn or an HTML page, proved equal"
    ),
    "predict": Command("predict", "classify images or a video, with a run or an exported file"),
    "explain": Command("explain", "show where in an image the evidence for a class lies"),
    "verify": Command("verify", "run an exported file in every installed runtime and compare their answers"),
    "bench": Command("bench", "time models or exported files by form, runtime, threads and image size"),
    "export-model": Command("export_model", "fuse a model and write it for Paddle Inference"),
    "convert-weights": Command("convert_weights", "convert published or trained weights between formats"),
    "make-lists": Command("datasets", "write the image lists of a folder of class folders", "lists"),
    "pack": Command("datasets", "write a folder of class folders as shards, for disks over a network", "pack"),
    "prepare-flowers102": Command("datasets", "make Oxford Flowers102 ready for training", "make_flowers102"),
    "make-sample-dataset": Command("datasets", "make a small data set of handwritten digits, offline", "make_digits"),
    "make-shapes-dataset": Command("datasets", "make a data set of shapes for detectors and segmenters", "make_shapes"),
    "program-to-onnx": Command("program_to_onnx", "make an ONNX file of a program of PaddleDetection or PaddleSeg"),
    "docs": Command("docs", "list the pages of the documentation, or print one"),
}

EXAMPLES = """examples:
  ppcls-ext make-sample-dataset
  ppcls-ext train -c digits/MobileOne_S0
  ppcls-ext export-onnx output/MobileOne_S0
  ppcls-ext predict output/MobileOne_S0/MobileOne_S0.onnx dataset/digits/images"""


def overview() -> str:
    """The text of `ppcls-ext --help`."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: ppcls-ext COMMAND …",
            "",
            "commands (ppcls-ext COMMAND --help says more):",
            *(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()),
            "",
            "  PATH/tools/train.py …  run a script of PaddleClas, PaddleDetection or PaddleSeg with our models",
            "",
            "options:",
            "  -h, --help   show this list",
            "  --version    show the version",
            "",
            EXAMPLES,
        ]
    )
