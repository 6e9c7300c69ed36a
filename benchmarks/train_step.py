"""Times a train step of this project's nets against timm's on torch, and against other forms of their own.

A step is forward, cross-entropy, backward and an SGD-with-momentum update on random images. Each form runs in a
process of its own; they take steps by turns, so that a busy machine slows all, with a pause before each: the threads of
the step before go on spinning for 0.2 s and would slow the next. What is printed are medians of seconds, medians of the
ratios of paired steps, and each process's largest memory.

Forms: `ppcls_ext`; `paddle`, the same without oneDNN; `timm`; `timm-last`, in channels_last memory (it crashes for some
nets: then its column says so). timm needs the extra [peers], or `--peer-python` of another environment that has it.
With "-bf16" behind a form it computes in bfloat16: ours by `ppcls_ext.mixed_precision`, timm by `torch.autocast`;
`--precision bfloat16` is all forms so, `--precision both` each in both.

Examples:
    python benchmarks/train_step.py
    python benchmarks/train_step.py --precision both
    python benchmarks/train_step.py --precision both --json first.json      # and another time: second.json
    python benchmarks/train_step.py --table first.json second.json
    python benchmarks/train_step.py --model MobileOne_S0 --batch 64 --size 32 --forms ppcls_ext paddle --json times.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from ppcls_ext import cpu

MODELS = ["MobileOne_S0", "MobileOne_S4", "RepVGG_A0", "RepVGG_B1g4", "FasterNet_T0", "FasterNet_S"]
SHAPES = [(64, 32), (16, 96), (8, 224)]  # images a step, their side in px
PAUSE = 0.35  # seconds
CLOCKS = {"wall": "perf_counter", "cpu": "process_time"}

PADDLE_STEP = """
import sys, time
name, batch, size, clock = sys.argv[1], *map(int, sys.argv[2:4]), getattr(time, sys.argv[5])
from ppcls_ext.hosts.threads import use_all_cores
use_all_cores()
import paddle, ppcls_ext
mixed = sys.argv[6] == "bfloat16"
paddle.seed(0)
model = ppcls_ext.build(name)
model.train()
optimizer = paddle.optimizer.Momentum(0.01, 0.9, parameters=model.parameters())
x, labels = paddle.randn([batch, 3, size, size]), paddle.randint(0, 1000, [batch])
print(f"Paddle {paddle.__version__}", flush=True)
for _ in sys.stdin:
    start = clock()
    with ppcls_ext.mixed_precision(mixed):
        loss = paddle.nn.functional.cross_entropy(model(x), labels)
    loss.backward()
    optimizer.step()
    optimizer.clear_grad(set_to_zero=False)  # as torch's zero_grad, and as our training
    print(clock() - start, flush=True)
"""
TIMM_STEP = """
import sys, time, torch, timm
name, batch, size, threads, clock = sys.argv[1], *map(int, sys.argv[2:5]), getattr(time, sys.argv[5])
mixed, layout = sys.argv[6] == "bfloat16", getattr(torch, sys.argv[7])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = timm.create_model(name.lower()).train().to(memory_format=layout)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
x, labels = torch.randn(batch, 3, size, size).to(memory_format=layout), torch.randint(0, 1000, (batch,))
print(f"timm {timm.__version__}, torch {torch.__version__}", flush=True)
for _ in sys.stdin:
    start = clock()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(clock() - start, flush=True)
"""
FORMS = {
    "ppcls_ext": (PADDLE_STEP, (), {}),
    "paddle": (PADDLE_STEP, (), {"PPCLS_EXT_ONEDNN": "0"}),
    "timm": (TIMM_STEP, ("contiguous_format",), {}),
    "timm-last": (TIMM_STEP, ("channels_last",), {}),
}
MIXED = "-bf16"
PRECISIONS = {"float32": ("",), "bfloat16": (MIXED,), "both": (MIXED, "")}


class Form:
    """A process that takes a step for each line it is sent.

    Args:
        name: of the form, a key of `FORMS`, maybe with `MIXED` behind it.
        case: model, batch, side.
        arguments: of the program.
    """

    def __init__(self, name: str, case: tuple[str, int, int], arguments: argparse.Namespace) -> None:
        code, more, variables = FORMS[name.removesuffix(MIXED)]
        precision = "bfloat16" if name.endswith(MIXED) else "float32"
        python = arguments.peer_python if name.startswith("timm") else sys.executable
        command = [python, "-c", code, *map(str, case), str(arguments.threads), CLOCKS[arguments.clock], precision]
        command += more
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), **variables}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment, cwd=ROOT,
        )  # fmt: skip
        self.versions = self.process.stdout.readline().strip()
        while self.versions and not self.versions.startswith(("Paddle", "timm")):
            self.versions = self.process.stdout.readline().strip()
        self.name, self.seconds, self.before = name, [], self.memory("VmRSS")

    def memory(self, field: str) -> float:
        """What the process takes, MiB: `VmRSS` now, `VmHWM` at most."""
        if not self.alive or sys.platform != "linux":
            return 0.0
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.split(f"{field}:")[1].split()[0]) / 1024

    @property
    def alive(self) -> bool:
        """Whether it started and did not crash."""
        return bool(self.versions) and self.process.poll() is None

    def step(self) -> None:
        """Takes a step and notes its seconds."""
        time.sleep(PAUSE)
        try:
            print(file=self.process.stdin, flush=True)
            self.seconds.append(float(self.process.stdout.readline()))
        except (BrokenPipeError, ValueError):
            self.versions = ""

    def close(self) -> float:
        """Ends the process; its largest memory, MiB."""
        peak = self.memory("VmHWM")
        self.process.kill()
        self.process.wait()
        return peak


def measure(case: tuple[str, int, int], arguments: argparse.Namespace) -> dict:
    """Seconds, ratios and memory of all forms of one case; forms that do not run are left out."""
    forms = [Form(name, case, arguments) for name in arguments.forms]
    for form in forms:
        for _ in range(2):  # the first builds what is kept
            form.step() if form.alive else None
        form.seconds.clear()
    for _ in range(arguments.rounds):
        for form in forms:
            form.step() if form.alive else None
    result = {
        "model": case[0],
        "batch": case[1],
        "size": case[2],
        "threads": arguments.threads,
        "clock": arguments.clock,
        "forms": {},
    }
    ours = forms[0].seconds
    for form in forms:
        versions, peak = form.versions, form.close()
        if versions and len(form.seconds) == len(ours) and ours:
            ratios = [one / other for one, other in zip(ours, form.seconds)]
            result["forms"][form.name] = {
                "versions": versions,
                "seconds": form.seconds,
                "median": statistics.median(form.seconds),
                "ratio": statistics.median(ratios),
                "peak_mib": round(peak),
                "mib_before": round(form.before),
            }
    return result


def show(result: dict, names: list[str]) -> None:
    """Prints one case as a line of the table."""
    cells = []
    for name in names:
        form = result["forms"].get(name)
        if form is None:
            cells.append(f"{'does not run':>22}")
        else:
            ratio = "" if name == names[0] else f"{form['ratio']:5.2f}"
            cells.append(f"{form['median']:7.3f} {ratio:5} {form['peak_mib']:6} MiB".rjust(22))
    print(f"{result['model']:13} {result['batch']:3}x{result['size']:<4}", *cells, flush=True)


def table(runs: list[list[dict]]) -> str:
    """The Markdown table of mixed precision, from the results of runs with `--precision both`.

    A cell has a number for each run. Those of timm are of whichever memory layout was faster in that run.
    """
    head = (
        "| model | images | ours in bfloat16, s | / ours in float32 | / timm in bfloat16 | / timm in float32 | memory |"
    )
    lines = [head, "|---|---|---|---|---|---|---|"]
    for same in zip(*runs):
        rows = []
        for result in same:
            forms = result["forms"]
            ours, own = forms["ppcls_ext-bf16"], forms["ppcls_ext"]
            peers = [
                max((forms[name]["ratio"] for name in (f"timm{kind}", f"timm-last{kind}") if name in forms), default=0)
                for kind in (MIXED, "")
            ]
            memory = (ours["peak_mib"] - ours["mib_before"]) / (own["peak_mib"] - own["mib_before"])
            rows.append((f"{ours['median']:.3f}", *(f"{value:.2f}" for value in (own["ratio"], *peers, memory))))
        cells = (", ".join(values) for values in zip(*rows))
        lines.append(f"| {same[0]['model']} | {same[0]['batch']} × {same[0]['size']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def computes_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 on this processor."""
    code = "from ppcls_ext.onednn.bfloat16 import instructions; print(instructions())"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    return bool(found.stdout.split())


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark and prints what it measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS, help="default: six nets")
    parser.add_argument("--batch", type=int, help="images a step; default: 64, 16 and 8 with the sizes below")
    parser.add_argument("--size", type=int, help="their side, px; default: 32, 96 and 224")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=["ppcls_ext", "timm", "timm-last"])
    kind = "default: float32; both: the bfloat16 forms first, so that ratios are to ours of them"
    parser.add_argument("--precision", choices=list(PRECISIONS), default="float32", help=kind)
    parser.add_argument("--timm", action="store_true", help="the same as --forms ppcls_ext timm")
    parser.add_argument(
        "--rounds", type=int, default=7, help="timed steps of each form, after two that are not counted"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu, with --threads 1: for busy machines"
    )
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has torch and timm")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    parser.add_argument("--table", type=Path, nargs="+", metavar="JSON", help="print the table of such files, and end")
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(table([json.loads(path.read_text(encoding="utf-8")) for path in arguments.table]))
        return
    if arguments.timm:
        arguments.forms = ["ppcls_ext", "timm"]
    if (arguments.batch is None) != (arguments.size is None):
        parser.error("give --batch and --size together")
    arguments.forms = [name + kind for kind in PRECISIONS[arguments.precision] for name in arguments.forms]
    if any(name.endswith(MIXED) for name in arguments.forms) and not computes_bfloat16():
        parser.exit(message=f"{cpu.name()}: no AVX-512 BF16 and no AMX: nothing is measured in bfloat16\n")
    shapes = SHAPES if arguments.batch is None else [(arguments.batch, arguments.size)]

    print(f"{cpu.name()}: {' '.join(cpu.features())}")
    print(f"{arguments.clock} seconds a step, {arguments.threads} threads; ", end="")
    print(f"the ratio is {arguments.forms[0]}'s seconds to the form's; largest memory")
    print(f"{'':22}", *(f"{name:>22}" for name in arguments.forms), flush=True)
    results = []
    for model in arguments.model:
        for batch, size in shapes:
            results.append(measure((model, batch, size), arguments))
            show(results[-1], arguments.forms)
    print(*sorted({form["versions"] for result in results for form in result["forms"].values()}), sep="; ")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
