"""Writes the PyTorch files of this folder; run with PyTorch 2.13: python tests/weights/files/make_files.py

`contents` needs NumPy alone: the tests compare what they read with the same arrays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def numbers(shape: tuple, dtype: str = "float32", first: int = 1) -> np.ndarray:
    """Returns the numbers first, first + 1, ... in the given shape, divided by 8 if they need not be whole."""
    whole = np.arange(first, first + np.prod(shape, dtype=int)).reshape(shape)
    return (whole % 2 if dtype == "bool" else whole / 8 if dtype.startswith("float") else whole).astype(dtype)


def contents() -> dict[str, dict[str, np.ndarray]]:
    """Returns what is to be read from each file, by the first part of the file's name."""
    base = numbers((4, 6))
    network = {
        "0.weight": numbers((4, 3, 3, 3)),
        "0.bias": numbers((4,)),
        "1.weight": numbers((4,), first=5),
        "1.bias": numbers((4,), first=9),
        "1.running_mean": numbers((4,), first=13),
        "1.running_var": numbers((4,), first=17),
        "1.num_batches_tracked": np.array(7, "int64"),
    }
    return {
        "types": {
            **{dtype: numbers((2, 3), dtype) for dtype in TYPES},
            "bfloat16": numbers((2, 3)),  # eighths are exact in bfloat16
            "scalar": np.array(2.5, "float32"),
            "empty": np.empty((0, 3), "float32"),
        },
        "unsigned": {dtype: numbers((2, 3), dtype, 250) for dtype in ("uint16", "uint32", "uint64")},
        "views": {
            "whole": base,
            "transposed": base.T,
            "columns": base[:, 1::2],
            "row": base[2],
            "element": base[3, 5],
            "expanded": np.broadcast_to(base[0, 1], (3, 2)),
            "channels_last": numbers((2, 3, 2, 2)),
            "half_of_bfloat16": numbers((4,))[2:],
        },
        "training": network,
        "ema": {name: value + value.dtype.type(1) for name, value in network.items()},
        "attributes": {"parameter": numbers((3,)), "subclass": numbers((2,), first=4)},
    }


def main() -> None:
    """Writes the files."""
    import argparse
    import collections
    import datetime
    import pathlib

    import torch
    from torch import nn

    expected = contents()

    def save(name: str, content: object) -> None:
        torch.save(content, HERE / f"{name}.zip.pth")
        torch.save(content, HERE / f"{name}.legacy.pth", _use_new_zipfile_serialization=False)

    def tensors(arrays: dict) -> dict:
        return {name: torch.tensor(array) for name, array in arrays.items()}

    types = tensors(expected["types"])
    types["bfloat16"] = types["bfloat16"].to(torch.bfloat16)
    save("types", types)
    torch.save(types, HERE / "types.protocol4.zip.pth", pickle_protocol=4)
    torch.save(types, HERE / "types.protocol4.legacy.pth", pickle_protocol=4, _use_new_zipfile_serialization=False)
    save("unsigned", tensors(expected["unsigned"]))

    base = torch.tensor(expected["views"]["whole"])
    views = {
        "whole": base,
        "transposed": base.T,
        "columns": base[:, 1::2],
        "row": base[2],
        "element": base[3, 5],
        "expanded": base[0, 1].expand(3, 2),
        "channels_last": torch.tensor(numbers((2, 3, 2, 2))).to(memory_format=torch.channels_last),
        "half_of_bfloat16": torch.tensor(numbers((4,))).to(torch.bfloat16)[2:],
    }
    assert not views["channels_last"].is_contiguous()
    save("views", views)

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network.load_state_dict(tensors(expected["training"]))
    parallel = nn.DataParallel(network)
    state = {name: value.clone() for name, value in parallel.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 8])
    network(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    network.load_state_dict(tensors(expected["training"]))
    checkpoint = {
        "epoch": 12,
        "arch": "mobileone_s0",
        "best_acc1": torch.tensor(71.5),
        "metric": np.float64(71.5),
        "args": argparse.Namespace(
            lr=0.1,
            milestones=[3, 3, 8],
            output=pathlib.PosixPath("runs/1"),
            device=torch.device("cpu"),
            dtype=torch.float32,
            started=datetime.datetime(2026, 1, 2),
            mean=np.array([0.5, 0.25]),
            tags={"a", "b"},
        ),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "history": collections.defaultdict(list, loss=[2.5, 1.5]),
        "state_dict": parallel.state_dict(),
    }
    assert list(state) == [f"module.{name}" for name in expected["training"]]
    save("training", checkpoint)
    save("ema", {**checkpoint, "model_ema": tensors(expected["ema"])})

    class Marked(torch.Tensor):
        pass

    parameter = nn.Parameter(torch.tensor(expected["attributes"]["parameter"]))
    parameter.tag = "kept beside the values"
    subclass = torch.tensor(expected["attributes"]["subclass"])
    subclass.tag = "kept beside the values"
    save("attributes", {"parameter": parameter, "subclass": subclass})

    program = torch.jit.script(nn.Linear(2, 2))
    program.save(HERE / "program.pt")


if __name__ == "__main__":
    main()
