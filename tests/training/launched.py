"""One process of a launched training: trains, and leaves what it ended with and which files it wrote.

Example: python -m paddle.distributed.launch --nproc_per_node=2 tests/training/launched.py CONFIG FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # launched as a script: only its own folder is there
from tests.helpers import build_engine

written: list[str] = []


def note(event: str, arguments: tuple) -> None:
    """Notes each file opened for writing and each renaming in the working directory."""
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        written.append(str(arguments[0]))
    elif event == "os.rename":
        written.append(str(arguments[1]))


def main() -> None:
    """Trains."""
    from ppcls_ext.config.load import load_config
    from ppcls_ext.training.start import set_up

    set_up()
    import numpy as np
    import paddle.distributed as dist

    engine = build_engine(load_config(sys.argv[1]))
    sys.addaudithook(note)
    engine.train()
    output = str(engine.folder.parent.resolve())
    files = [path for path in written if str(Path(path).resolve()).startswith(output)]
    state = {f"trained {name}": tensor.numpy() for name, tensor in engine.model.state_dict().items()}
    with engine.recipe.evaluated():
        state.update({f"average {name}": tensor.numpy() for name, tensor in engine.model.state_dict().items()})
    np.savez(Path(sys.argv[2], f"rank{dist.get_rank()}.npz"), written=files, **state)


if __name__ == "__main__":
    main()
