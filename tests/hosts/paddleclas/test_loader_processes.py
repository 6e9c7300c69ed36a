"""The processes of loaders end with the one they load for, and no more is asked of shared memory than there is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_ext.hosts.paddleclas import loader_processes
from ppcls_ext.hosts.paddleclas.loader_processes import fit_shared_memory

ROOT = Path(__file__).resolve().parents[3]


class Images(paddle.io.Dataset):
    """24 images of 12 KB; reading one draws a random number."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return np.full((3, 32, 32), np.random.rand(), np.float32), np.int64(index)


def loader(workers: int, shared: bool = True) -> paddle.io.DataLoader:
    return paddle.io.DataLoader(Images(), batch_size=8, num_workers=workers, use_shared_memory=shared)


@pytest.mark.parametrize(
    ("kilobytes", "said", "workers", "shared"),
    [
        (64, "/dev/shm has 64 KB free, and the processes of Train, Eval need 124 KB: no processes", 0, False),
        (1024, "the processes of Train, Eval need 2,224 KB: batches go through pipes", 2, False),
        (2223, "batches go through pipes", 2, False),
        (2224, "", 2, True),
        (1 << 24, "", 2, True),
    ],
)
def test_little_shared_memory(monkeypatch, kilobytes, said, workers, shared):
    loaders = {"Train": loader(2), "Eval": loader(3), "Gallery": None, "Query": loader(0)}
    monkeypatch.setattr(loader_processes, "_free", lambda _: kilobytes << 10)
    np.random.seed(1)
    line = fit_shared_memory(loaders)
    assert line.startswith(said) or said in line
    assert bool(line) == bool(said)
    assert loaders["Train"].num_workers == workers
    assert loaders["Train"].use_shared_memory == loaders["Eval"].use_shared_memory == shared
    np.random.seed(1)
    fit_shared_memory(loaders)
    expected = np.random.RandomState(1).rand()
    assert np.random.rand() == expected, "the random numbers of the training are what they were"


def test_processes_share_it(monkeypatch):
    monkeypatch.setattr(loader_processes, "_free", lambda _: 3 << 20)
    assert not fit_shared_memory({"Train": loader(2)}, processes=2)
    assert "need 3,824 KB" in fit_shared_memory({"Train": loader(2)}, processes=4)


def test_loaders_that_share_nothing_are_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(loader_processes, "_free", lambda _: 1 << 20)
    assert not fit_shared_memory({"Train": loader(2, shared=False), "Eval": loader(0)})
    monkeypatch.undo()
    assert not fit_shared_memory({"Train": loader(2)}, folder=tmp_path / "none")


SCRIPT = """
import multiprocessing, sys
from ppcls_ext.hosts.paddleclas import loader_processes
from ppcls_ext.training.loop import batches
from tests.hosts.paddleclas.test_loader_processes import loader
assert loader_processes.outlive_their_parent()
loader_processes.end_with_their_parent()
assert not loader_processes.outlive_their_parent()
if __name__ == "__main__":
    train = loader(2)
    assert len(list(batches(train, 3))) == 3
    for some in (batches(train, 3), loader_processes.batches_of(train)):
        for batch in some:
            break
    del some
    print("left", len(multiprocessing.active_children()), flush=True)
    iterator = iter(train)
    next(iterator)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.read()
"""


LEFT_BEHIND = """
import gc, sys
import paddle
from paddle import inference
from ppcls_ext.hosts.paddleclas import loader_processes
from tests.hosts.paddleclas.test_loader_processes import Images
loader_processes.end_with_their_parent()

class Collecting(Images):
    def __getitem__(self, index):
        gc.collect()
        return super().__getitem__(index)

gc.disable()
spec = [paddle.static.InputSpec([1, 3, 8, 8])]
paddle.jit.save(paddle.jit.to_static(paddle.nn.Conv2D(3, 4, 3), full_graph=True, input_spec=spec), sys.argv[1])
for _ in range(3):
    predictor = inference.create_predictor(inference.Config(f"{sys.argv[1]}.json", f"{sys.argv[1]}.pdiparams"))
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(Images()[0][0][None, :, :8, :8])
    predictor.run()
    cycle = [predictor]
    cycle.append(cycle)
del predictor, cycle
print(len(list(paddle.io.DataLoader(Collecting(), batch_size=8, num_workers=1))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Paddle's loaders start processes on Linux alone")
def test_what_the_parent_left_is_not_ended_in_them(tmp_path):
    command = [sys.executable, "-c", LEFT_BEHIND, str(tmp_path / "net")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["3"]), done.stderr[-2000:]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Paddle's loaders start processes on Linux alone")
def test_they_end_with_an_epoch_and_with_their_parent():
    """Also where the parent is killed; and nothing of theirs stays in /dev/shm."""
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    ) as process:
        try:
            assert process.stdout.readline() == "left 0\n", "an epoch that takes all batches, or stops early, ends them"
            workers = [int(number) for number in process.stdout.readline().split()]
            assert len(workers) == 2
            for number in (signal.SIGHUP, signal.SIGQUIT):  # what a terminal sends to all: the parent answers
                for worker in workers:
                    os.kill(worker, number)
            time.sleep(0.2)
            assert all(map(alive, workers))
        finally:
            process.kill()
    until = time.monotonic() + 120
    while any(map(alive, workers)):
        assert time.monotonic() < until, "a process that loads images outlives the one that trains"
        time.sleep(0.05)
    names = re.compile(f"paddle_({'|'.join(map(str, [process.pid, *workers]))})_")
    assert not [name for name in os.listdir("/dev/shm") if names.match(name)]
