"""The mode "export" of the engine: a Paddle program that was compared with the trained model before it is in place."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError, one_line, printable
from ppcls_ext.export.comparison import relative_difference
from ppcls_ext.files import folder_at_once, room
from ppcls_ext.hosts.quiet import logging_from
from ppcls_ext.predict.program_set import DIGESTS, FILES, digests_of
from ppcls_ext.weights.files import read_weights

#: PaddleClas's metric of attributes, by which its export recognises several labels.
ATTRIBUTES = "ATTRMetric"
TOLERANCE = 1e-3  # relative to the largest output; float32 fusion stays far below
#: PACT's clipping bounds, which the inferring and the exported model do not have: the scales learnt behind them stay.
TRAINING_ONLY = "._act_preprocess.alpha"


def export(engine: Any, host_export: Callable[[], None], describe: Callable[[Path], None] | None = None) -> None:
    """Writes the fused model for Paddle Inference, checks it and prints the files' paths.

    The files are one set, which is replaced at once; where that is impossible, behind the list of its digests, so that
    no mixture is taken for a set (`predict.program_set`).

    Args:
        engine: ours, built, in its mode "export".
        host_export: PaddleClas's, which writes to `Global.save_inference_dir`.
        describe: writes further files of the set to the folder that it is given.

    Raises:
        PpclsExtError: the written model gives other results than the trained one; it is not kept.
    """
    with told_the_task(engine):
        _export(engine, host_export, describe)


@contextlib.contextmanager
def told_the_task(engine: Any) -> Iterator[None]:
    """Tells PaddleClas in its own words what the scores are.

    It appends a sigmoid where `Global.use_multilabel` and (since 2.6: or) ATTRMetric, one of the metrics for several
    labels, are given; else a softmax, unless `Arch.infer_add_softmax` is false, which counts for single labels alone.
    """
    config, several = engine.config, ends_in_sigmoid(engine)
    before = config["Global"].get("use_multilabel"), config["Metric"]["Eval"]
    config["Global"]["use_multilabel"], config["Metric"]["Eval"] = several, [{ATTRIBUTES: None}] if several else [{}]
    try:
        yield
    finally:
        config["Global"]["use_multilabel"], config["Metric"]["Eval"] = before


def ends_in_sigmoid(engine: Any) -> bool:
    """Returns whether the program gives the scores of several labels; `infer_add_softmax: false` asks for logits."""
    return engine.settings.task == MULTI_LABEL and engine.config["Arch"].get("infer_add_softmax") is not False


def _export(engine: Any, host_export: Callable[[], None], describe: Callable[[Path], None] | None) -> None:
    settings = engine.config["Global"]
    target = Path(settings["save_inference_dir"])
    image = np.random.default_rng(0).standard_normal((1, *settings["image_shape"]), dtype=np.float32)
    expected = _expected_outputs(engine, image)
    with folder_at_once(target, FILES, first=DIGESTS) as place:
        settings["save_inference_dir"] = str(place)
        with logging_from(logging.WARNING, logging.getLogger("ppcls")):  # it would name the temporary folder
            host_export()
        settings["save_inference_dir"] = str(target)
        if (place / "inference.pdiparams").is_file():  # a quantised model has another name and other results
            _compare(expected, _read_back(place, target), image)
        if describe is not None:
            describe(place)
        written = sorted(path.name for path in place.iterdir())
        (place / DIGESTS).write_text(digests_of(place), encoding="utf-8")
    for name in written:
        print(printable(str(target / name)))


@paddle.no_grad()
def _expected_outputs(engine: Any, image: np.ndarray) -> list[np.ndarray]:
    """Computes the outputs that the exported model has to give, with the model as it was trained."""
    from ppcls.engine.engine import ExportModel

    several = ends_in_sigmoid(engine)
    config = {**engine.config["Arch"], **({"infer_add_softmax": False} if several else {})}
    model = ExportModel(config, engine.network, False)
    model.eval()
    outputs = model(paddle.to_tensor(image))
    if several:  # the sigmoid is ours: were PaddleClas to append something else, it would show
        outputs = paddle.nn.functional.sigmoid(outputs["logits"] if isinstance(outputs, dict) else outputs)
    return [tensor.numpy() for tensor in paddle.utils.flatten(outputs)]


def _read_back(place: Path, target: Path) -> Any:
    """The program in `place`; Paddle's C++ writes no more than a full disk takes, and does not say so."""
    program = place / "inference.json"
    try:
        if program.is_file():
            json.loads(program.read_bytes())  # Paddle's C++ takes seconds to say the same
        return paddle.jit.load(str(place / "inference"))
    except Exception as error:
        raise PpclsExtError(
            f"cannot write {target}: what was written there cannot be read again ({one_line(error)[:200]}); "
            f"{room(place)}; choose a folder that is writable and has room"
        ) from error


def _compare(expected: list[np.ndarray], exported: paddle.nn.Layer, image: np.ndarray) -> None:
    got = [tensor.numpy() for tensor in paddle.utils.flatten(exported(paddle.to_tensor(image)))]
    shapes = [array.shape for array in got], [array.shape for array in expected]
    if shapes[0] != shapes[1]:
        raise PpclsExtError(f"the exported model gives {shapes[0]}, the trained one {shapes[1]}: it is not kept")
    difference = float(np.max([relative_difference(*pair) for pair in zip(got, expected)]))
    if not difference <= TOLERANCE:
        raise PpclsExtError(
            f"the exported model differs from the trained one by {difference:.1e} of the largest output (more than "
            f"{TOLERANCE:g}): it is not kept; please report the architecture and the versions"
        )


def without_training_only(path: str) -> dict[str, np.ndarray]:
    """The weights at `path` but for those that only training and evaluation of a quantised model use.

    PaddleSlim quantises models while they are trained (PaddleClas's `Slim.quant`).

    Raises:
        PpclsExtError: the file cannot be read.
    """
    return {name: array for name, array in read_weights(path).items() if not name.endswith(TRAINING_ONLY)}
