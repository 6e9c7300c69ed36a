"""Times a train step of a model against the same model with one operation per branch.

A step is forward, cross-entropy, backward and an SGD-with-momentum update on random pictures. The two forms run by
turns in one process, over the same parameters, so that a busy machine slows both; medians and their ratio are printed.

Example:
    python benchmarks/train_step.py --model MobileOne_S0 --batch 64 --size 32 --rounds 5 --threads 2
    python benchmarks/train_step.py --model MobileOne_S0 --batch 16 --size 96 --timm mobileone_s0
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.engine.threads import use_all_cores

# A program that times one step of timm's model for each line it reads.
TIMM_STEP = """
import sys, time, torch, timm
name, batch, size, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
model = timm.create_model(name).train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
x, labels = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
print(f"timm {timm.__version__}, torch {torch.__version__}", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    print(time.perf_counter() - start, flush=True)
"""


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark and prints what it measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="MobileOne_S0")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step")
    parser.add_argument("--size", type=int, default=32, help="their side, px")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each form, after one that is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timm", metavar="NAME", help="also time this model of timm, if torch and timm are installed")
    arguments = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    use_all_cores()

    forms = paddle_forms(arguments)
    with contextlib.ExitStack() as stack:
        if arguments.timm:
            forms["timm"] = stack.enter_context(timm_form(arguments))
        seconds = {name: [] for name in forms}
        for number in range(arguments.rounds + 1):
            for name, step in forms.items():
                taken = step()
                if number:
                    seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{arguments.model}, batch {arguments.batch}, {arguments.size} px, {arguments.threads} threads, seconds a step"
    )
    for name, median in medians.items():
        low, high = min(seconds[name]), max(seconds[name])
        ratio = median / medians["one op per branch"]
        print(f"  {name:20} median {median:.3f}  [{low:.3f}, {high:.3f}]  ratio {ratio:.3f}")


def paddle_forms(arguments: argparse.Namespace) -> dict:
    """Name → function that runs one step and returns its seconds."""
    import numpy
    import paddle

    import ppcls_ext
    from ppcls_ext.layers.rep_conv import RepConv

    print(f"Python {sys.version.split()[0]}, Paddle {paddle.__version__}, NumPy {numpy.__version__}")
    paddle.seed(0)
    model = ppcls_ext.build(arguments.model)
    model.train()
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, parameters=model.parameters())
    x = paddle.randn([arguments.batch, 3, arguments.size, arguments.size])
    labels = paddle.randint(0, 1000, [arguments.batch])
    ours = RepConv.forward

    def step_with(forward):
        def step() -> float:
            RepConv.forward = forward
            start = time.perf_counter()
            loss = paddle.nn.functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            taken = time.perf_counter() - start
            RepConv.forward = ours
            return taken

        return step

    return {"one op per branch": step_with(RepConv.sum_of_branches), "ppcls_ext": step_with(ours)}


@contextlib.contextmanager
def timm_form(arguments: argparse.Namespace):
    """A function that runs one step of timm's model, in a process of its own, and returns its seconds."""
    options = [str(value) for value in (arguments.batch, arguments.size, arguments.threads)]
    command = [sys.executable, "-c", TIMM_STEP, arguments.timm, *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        print(process.stdout.readline().strip() or sys.exit("timm did not start: see its message above"))

        def step() -> float:
            print(file=process.stdin, flush=True)
            return float(process.stdout.readline())

        yield step
        process.stdin.close()


if __name__ == "__main__":
    main()
