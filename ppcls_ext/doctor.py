"""The checks of `ppcls-ext doctor`: the machine, the installed packages, and a configuration's data and first steps."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ppcls_ext import cpu
from ppcls_ext.config.lists import with_made_lists
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.lists import SINGLE_LABEL, ImageList
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.hosts.paddleclas.locate import HOW_TO_GET_ONE, find
from ppcls_ext.hosts.quiet import captured_output
from ppcls_ext.hosts.threads import VARIABLE, use_all_cores
from ppcls_ext.packages import EXTRAS, import_extra, missing

if TYPE_CHECKING:
    from ppcls_ext.training.trial import Trial

LEAST_MEMORY = 2.0  # GiB; a training of the smallest nets takes about one
#: Versions of Paddle that this project is made for: from, and below.
PADDLE_VERSIONS = ((3, 0), (4, 0))
UNEQUAL = 10  # times as many images of one class as of another, from which on that is said
STEPS = 4  # training steps of a trial; the first one builds what the others use


class Finding(NamedTuple):
    """The result of one check: a line of the doctor's screen.

    Attributes:
        name: name of the check, such as "Paddle".
        text: what was found.
        advice: what to do about a problem; empty where there is none.
    """

    name: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.text}: {self.advice}" if self.advice else self.text
        return f"{'problem' if self.advice else 'ok':<8} {self.name:<12} {one_line(text)}"


Check = Callable[[], Finding]


def run_check(name: str, check: Check) -> Finding:
    """Returns the finding of `check`; an exception is a finding, too."""
    try:
        return check()
    except Exception as error:  # what the doctor checks may be broken in any way
        return Finding(name, type(error).__name__, one_line(error) or "no message")


def check_installation() -> Iterator[Finding]:
    """Yields the findings about the machine and the installed packages."""
    return (run_check(name, check) for name, check in CHECKS.items())


def check_python() -> Finding:
    """Checks the version of Python."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    return Finding("Python", text, "" if sys.version_info >= (3, 9) else "expected 3.9 or newer")


def check_cpu() -> Finding:
    """Reports the processor's name, the cores that this process may use, and its instruction sets."""
    features = " ".join(cpu.features()) or "instruction sets unknown"
    return Finding("CPU", f"{cpu.name()}, {cpu.usable_cores()} cores: {features}")


def check_threads() -> Finding:
    """Checks how many threads Paddle computes with."""
    given, cores = os.environ.get(VARIABLE), cpu.usable_cores()
    if given is None:
        return Finding("threads", f"{cores}, all cores ({VARIABLE} is not set)")
    if not given.isdecimal() or int(given) < 1:
        return Finding("threads", f"{VARIABLE} is {given!r}", "expected a whole number from 1; unset it for all cores")
    more = f"; unset {VARIABLE} to use all {cores} cores" if int(given) < cores else ""
    return Finding("threads", f"{given} ({VARIABLE} is set{more})")


def check_memory() -> Finding:
    """Checks the free memory, of all that this process may use."""
    known = {key: int(value) / 2**20 for key, value in re.findall(r"^(\w+): +(\d+) kB", _read("/proc/meminfo"), re.M)}
    if "MemTotal" not in known:
        return Finding("memory", "unknown on this system")
    total, free = known["MemTotal"], known.get("MemAvailable", known["MemTotal"])
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdecimal() and int(limit) / 2**30 < total:
        total = int(limit) / 2**30
        used = _read("/sys/fs/cgroup/memory.current").strip()
        free = min(free, total - int(used) / 2**30) if used.isdecimal() else min(free, total)
    text = f"{free:.1f} of {total:.1f} GiB free"
    return Finding("memory", text, "" if free >= LEAST_MEMORY else "close other programs, or train with small batches")


def check_gpu() -> Finding:
    """Checks for GPUs, and whether this Paddle can use them."""
    names = _nvidia_gpus()
    try:
        import paddle
    except ImportError:
        return Finding("GPU", ", ".join(names) or "none")
    if paddle.device.is_compiled_with_cuda():
        count = paddle.device.cuda.device_count()
        if count or not names:
            return Finding("GPU", f"{count} for Paddle: {', '.join(names) or 'none'}")
        text = f"{', '.join(names)}, which Paddle does not find"
        return Finding("GPU", text, "check the driver and CUDA_VISIBLE_DEVICES")
    if names:
        advice = "install paddlepaddle-gpu in its place, as Paddle's installation page says"
        return Finding("GPU", f"{', '.join(names)}, and this Paddle is for CPUs", advice)
    return Finding("GPU", "none: everything runs on the CPU")


def check_paddle() -> Finding:
    """Imports Paddle and checks its version."""
    if _is_missing("paddle"):
        return Finding("Paddle", "nothing can be trained or exported", missing("paddle"))
    use_all_cores()
    paddle = import_extra("paddle")
    kind = "for GPUs" if paddle.device.is_compiled_with_cuda() else "for CPUs"
    text = f"{paddle.__version__} {kind}"
    numbers = tuple(int(part) for part in paddle.__version__.split(".")[:2] if part.isdecimal())
    low, high = PADDLE_VERSIONS
    if low <= numbers < high or numbers == (0, 0):  # 0.0.0 is a build of the development branch
        return Finding("Paddle", text)
    return Finding("Paddle", text, f"expected at least {low[0]}.{low[1]} and below {high[0]}.{high[1]}")


def check_onednn() -> Finding:
    """Checks the oneDNN in Paddle's wheel, which makes training on CPUs fast."""
    if _is_missing("paddle"):
        return Finding("oneDNN", "none: it comes with Paddle")
    from ppcls_ext.onednn import find as onednn  # loads Paddle
    from ppcls_ext.onednn.bfloat16 import instructions

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = onednn.library()
    if found is not None:
        with_bfloat16 = instructions()
        mixed = f"--bf16 computes by {with_bfloat16}" if with_bfloat16 else "no bfloat16 on this processor"
        return Finding("oneDNN", f"{found.version} of Paddle, used on CPUs; {mixed}")
    if os.environ.get(onednn.VARIABLE) == "0":
        return Finding("oneDNN", f"switched off by {onednn.VARIABLE}=0: training on the CPU is slower")
    why = one_line(caught[-1].message) if caught else "none in this Paddle that is known"
    return Finding("oneDNN", f"not used, training on the CPU is slower: {why}")


def check_paddleclas() -> Finding:
    """Checks where PaddleClas is, and whether it can train."""
    try:
        found = find()
    except PpclsExtError as error:
        return Finding("PaddleClas", "nothing can be trained", str(error))
    text = str(found).removeprefix("PaddleClas ")
    if not found.has_engine:
        return Finding("PaddleClas", f"{text}, without the training engine", HOW_TO_GET_ONE)
    return Finding("PaddleClas", f"{text}, with the training engine")


def check_needs_of_paddleclas() -> Finding:
    """Checks the packages that PaddleClas's engine imports."""
    needed = [package for package, extra in EXTRAS.items() if extra == "train"]
    absent = [package for package in needed if _is_missing(package)]
    if absent:
        return Finding("its needs", f"without {', '.join(absent)}", 'pip install "ppcls-ext[train]"')
    return Finding("its needs", f"all {len(needed)} packages of the extra [train]")


def check_paddle2onnx() -> Finding:
    """Checks the packages that the export to ONNX needs."""
    needed = [package for package, extra in EXTRAS.items() if extra == "onnx"]
    for package in needed:
        if _is_missing(package):
            return Finding("paddle2onnx", "export to ONNX is not possible", missing(package))
    return Finding("paddle2onnx", ", ".join(f"{name} {_version(name)}".removeprefix("paddle2onnx ") for name in needed))


def check_onnxruntime() -> Finding:
    """Checks onnxruntime, which prediction and the verification of an export need."""
    if _is_missing("onnxruntime"):
        return Finding("onnxruntime", "exported files cannot be run", missing("onnxruntime"))
    return Finding("onnxruntime", import_extra("onnxruntime").__version__)


#: Threads come before Paddle, which sets the variable that they are read from.
CHECKS: dict[str, Check] = {
    "Python": check_python,
    "CPU": check_cpu,
    "threads": check_threads,
    "memory": check_memory,
    "Paddle": check_paddle,
    "oneDNN": check_onednn,
    "GPU": check_gpu,
    "PaddleClas": check_paddleclas,
    "its needs": check_needs_of_paddleclas,
    "paddle2onnx": check_paddle2onnx,
    "onnxruntime": check_onnxruntime,
}
#: No configuration can be tried where one of these has a problem.
NEEDED_FOR_TRAINING = frozenset(("Paddle", "PaddleClas", "its needs"))


def _is_missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(version unknown)"


def _nvidia_gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def try_configuration(
    settings: RunSettings, data: str | os.PathLike | None = None, labels: str | os.PathLike | None = None
) -> Iterator[Finding]:
    """Yields the findings about a training with this configuration, and stops at the first problem.

    The files are found and counted, a batch is decoded and some steps are timed; nothing is written.

    Args:
        settings: the opened configuration.
        data: a folder of images in the place of its lists; see `ppcls_ext.train`.
        labels: a table of several classes an image in `data`.
    """
    from ppcls_ext.weights.folder_lock import release

    if data is not None:
        try:
            settings, made = with_made_lists(settings, data, labels)
        except PpclsExtError as error:
            yield Finding("images", "they cannot be trained on", str(error))
            return
        if said := made.lines(are_kept=False)[1:]:  # the counts are said below
            yield Finding("images", "; ".join(said))
    trials: list[_Trial] = []
    with tempfile.TemporaryDirectory(prefix="ppcls-ext-doctor-") as folder:
        checks: dict[str, Check] = {
            "data": lambda: _check_data(settings, folder),
            "model": lambda: _check_model(settings, folder, trials),
            "schedule": lambda: trials[0].check_schedule(),
            "evaluation": lambda: trials[0].check_evaluation(),
            "one batch": lambda: trials[0].check_batch(),
            "one step": lambda: trials[0].check_step(),
        }
        try:
            for name, check in checks.items():
                finding = run_check(name, check)
                yield finding
                if finding.advice:
                    return
        finally:
            release(Path(folder, str(settings.arch.name)))  # `prepare` holds the folder of a training


def _check_data(settings: RunSettings, folder: str) -> Finding:
    """Checks that everything the configuration names exists: lists, images, weights, folders."""
    from ppcls_ext.config.prepare import prepare
    from ppcls_ext.config.weights import require_writable
    from ppcls_ext.training.start import set_up

    try:
        set_up()
        require_writable("Global.output_dir", settings.section("Global").get("output_dir") or "output")
        lists = prepare(settings.changed("Global", output_dir=folder, checkpoints=None), "train").lists
    except PpclsExtError as error:
        return Finding("data", "the configuration cannot be trained", str(error))
    counts = [f"{loader} {len(images)} images of {len(images.labels)} classes" for loader, images in lists.items()]
    said = ", ".join(counts) or "found (it has no plain image lists to count)"
    if "Train" in lists:
        said += _imbalance(lists["Train"], settings.class_names)
    return Finding("data", said)


def _imbalance(images: ImageList, names: Sequence[str] | None) -> str:
    """Says where one class has far fewer images than another, and what can be done."""
    counts = Counter(images.targets.tolist()).most_common() if images.task == SINGLE_LABEL else []
    if len(counts) < 2 or counts[0][1] < UNEQUAL * counts[-1][1]:
        return ""
    named = [f"{names[label] if names else f'class {label}'} has {count}" for label, count in counts]
    most, least = named[0], named[-1]
    return f"; {most} images and {least}: train with --class-weights balanced or --sampler balanced"


def _check_model(settings: RunSettings, folder: str, trials: list[_Trial]) -> Finding:
    """Builds the engine with its data and its model, with random weights."""
    from ppcls_ext.training.trial import Trial

    trials.append(_Trial(Trial(settings, folder, STEPS)))
    engine = trials[0].engine
    count = sum(parameter.size for parameter in engine.model.parameters() if parameter.trainable)
    device = engine.config["Global"]["device"]
    return Finding("model", f"{settings.arch.name}, {count / 1e6:.2f} M parameters, on the {device}")


class _Trial:
    """A few training steps, which both findings are about."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self.engine = trial, trial.engine
        self._error: Exception | None = None

    def check_schedule(self) -> Finding:
        """Reports the epochs, their batches and the highest learning rate."""
        from ppcls_ext.training.terminal import schedule_of

        optimizer = self.engine.config["Optimizer"]
        rate = (optimizer.get("lr") or {}).get("learning_rate") if isinstance(optimizer, dict) else None
        return Finding("schedule", schedule_of(self.engine) + ("" if rate is None else f", learning rate {rate}"))

    def check_evaluation(self) -> Finding:
        """Puts one batch through the evaluation's losses and metrics."""
        from ppcls_ext.training.first_batch import try_parts

        best_by = self.engine.best_by
        if best_by is None:
            return Finding("evaluation", "none during training (Global.eval_during_train is false)")
        try:
            with captured_output():
                try_parts(self.engine)
        except PpclsExtError as error:
            return Finding("evaluation", "it would fail", str(error))
        return Finding("evaluation", f"one batch works; the best epoch is chosen by {best_by}")

    def check_batch(self) -> Finding:
        """Decodes and augments one batch."""
        if not len(self.engine.train_dataloader):
            advice = "there are fewer images than a batch takes: make DataLoader.Train.sampler.batch_size smaller"
            return Finding("one batch", "an epoch has none", advice)
        try:
            self._trial.run()
        except Exception as error:
            self._error = error
        if self._trial.shape is None:
            raise self._error or PpclsExtError("the engine asked for none")
        number, _, height, width = self._trial.shape
        return Finding("one batch", f"{self._trial.reading:.2f} s for {number} images of {width} × {height} px")

    def check_step(self) -> Finding:
        """Reports the median time of a training step with its batch, without the first step."""
        if self._error is not None:
            raise self._error
        from ppcls_ext.training.terminal import duration

        seconds, steps = self._trial.step_seconds(), len(self.engine.train_dataloader)
        if seconds is None:
            return Finding("one step", "an epoch has one: too few to time")
        return Finding("one step", f"{seconds:.2f} s; {steps} steps are an epoch, about {duration(seconds * steps)}")
