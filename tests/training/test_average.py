"""The average of several trainings' weights, as a run."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

import ppcls_ext
from ppcls_ext.averages import average
from ppcls_ext.commands.main import main
from ppcls_ext.run import Run
from ppcls_ext.training.precise_statistics import learning_norms
from ppcls_ext.training.recipe import STATISTICS


@pytest.fixture
def runs(config, tmp_path, monkeypatch):
    """Makes two runs of one network from the same weights."""
    monkeypatch.chdir(tmp_path)

    def make(arch: dict, **recipe):
        ppcls_ext.register()
        config["Arch"] = {"class_num": 2, **arch}
        config["Recipe"] = recipe
        operators = config["DataLoader"]["Train"]["dataset"]["transform_ops"]
        operators.insert(1, {"RandCropImage": {"size": 32}})  # the order of the images is the same for every seed
        paddle.seed(1)
        paddle.save(ppcls_ext.build(**config["Arch"]).state_dict(), "start.pdparams")
        config["Global"].update(epochs=1, output_dir="out", pretrained_model="start.pdparams", eval_during_train=True)
        made = []
        for seed in (1, 2):
            config["Global"].update(seed=seed, run_name=f"part{seed}")
            (tmp_path / "part.yml").write_text(yaml.safe_dump(config))
            made.append(Run("part.yml").train(quiet=True))
        return made

    return make


ARCHS = [
    {"name": "MobileOne_S0", "num_conv_branches": 1},
    {"name": "RepVGG_A0", "fused": True},
    {"name": "FasterNet_T0"},
]


@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch["name"])
def test_it_is_the_mean_with_statistics_of_its_own(runs, arch, tmp_path, capsys):
    parts = runs(arch, **({"ema": {"decay": 0.5}} if arch["name"] == "FasterNet_T0" else {}))
    made = average([part.folder for part in parts])
    assert [name for name, _ in made.parts] == [str(part.settings.weights().path) for part in parts]
    states = [part.model.state_dict() for part in parts]
    state, norms = made.run.model.state_dict(), learning_norms(made.run.model.train())
    assert not all(np.array_equal(states[0][key].numpy(), states[1][key].numpy()) for key in state)
    for key, value in state.items():
        mean = (states[0][key].numpy().astype("float64") + states[1][key].numpy()) / 2
        same = np.allclose(value.numpy(), mean, rtol=1e-6, atol=1e-7)
        assert same or (norms and key.endswith(STATISTICS)), key
    assert bool(norms) == any(key.endswith(STATISTICS) for key in state)
    if norms:
        moved = [key for key in state if key.endswith(STATISTICS) and not np.allclose(
            state[key].numpy(), (states[0][key].numpy() + states[1][key].numpy()) / 2, rtol=1e-3)]  # fmt: skip
        assert len(moved) == sum(key.endswith(STATISTICS) for key in state), "each has the statistics of the images"
    assert made.run.evaluate().top1 == pytest.approx(made.evaluation[0].value)
    record = json.loads((made.run.folder / "run.json").read_text())
    assert record["averaged"] == [str(part.settings.weights().path.absolute()) for part in parts]
    assert record["finished"]
    assert made.run.folder.name == "part1-average"
    capsys.readouterr()
    assert main(["eval", str(made.run.folder)]) in (0, None)
    assert "the average of 2 trainings" in capsys.readouterr().out


def test_again_by_the_command(runs, capsys, tmp_path):
    parts = [str(part.folder) for part in runs({"name": "FasterNet_T0"})]
    capsys.readouterr()
    for name in ("part1-average", "part1-average-2"):
        assert main(["average", *parts]) in (0, None)
        said = capsys.readouterr().out.splitlines()[-4:]
        assert said[-1] == f"weights: out/{name}/best_model.pdparams"
        assert [line.split()[0] for line in said[:3]] == [*(f"{part}/best_model.pdparams" for part in parts), "average"]
    first = (tmp_path / "out/part1-average/run.json").read_bytes()
    assert main(["average", *reversed(parts), "--name", "part1-average", "--overwrite"]) in (0, None)
    assert (tmp_path / "out/part1-average/run.json").read_bytes() != first
    capsys.readouterr()
    assert main(["train", "--resume", "out/part1-average"]) == 1
    assert "holds no complete checkpoint to resume from" in capsys.readouterr().err


def test_what_cannot_be_averaged(runs, tmp_path, capsys):
    first, second = runs({"name": "FasterNet_T0"})

    def fails(*given: object) -> str:
        before = sorted(path.name for path in (tmp_path / "out").iterdir())
        with contextlib.suppress(SystemExit):  # bad usage
            assert main(["average", *map(str, given)]) == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before, "nothing is left"
        return said

    assert "expected at least two" in fails(first.folder)
    assert "is given twice" in fails(first.folder, second.folder, first.folder / "best_model.pdparams")
    assert "is no run" in fails(first.folder, tmp_path)
    assert "expected folders that trainings wrote" in fails(first.folder, "FasterNet_T0")
    other = tmp_path / "out/other"
    shutil.copytree(second.folder, other)
    config = yaml.safe_load((other / "config.yml").read_text())
    changed = copy.deepcopy(config)
    changed["Arch"].update(name="FasterNet_T1")
    (other / "config.yml").write_text(yaml.safe_dump(changed))
    assert "has architecture FasterNet_T1, and out/part1 FasterNet_T0" in fails(first.folder, other).replace(
        f"{tmp_path}/", ""
    )
    (other / "config.yml").write_text(yaml.safe_dump(config))
    state = paddle.load(str(other / "best_model.pdparams"))
    state[next(iter(state))][:] = np.nan
    for path in other.glob("best_model*"):
        path.unlink()
    paddle.save(state, str(other / "best_model.pdparams"))
    assert "not finite" in fails(first.folder, other)


def test_lists_of_a_folder_of_images_come_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(8):
            pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    for seed in (1, 2):
        options = {"data": "images", "name": f"seed{seed}", "seed": seed, "epochs": 1, "size": 32}
        ppcls_ext.train("FasterNet_T0", **options, quiet=True)
    made = average(["output/seed1", "output/seed2"], name="both")
    shutil.rmtree("output/seed1")
    assert made.run.export_onnx().path.is_file()
    assert sorted(path.name for path in (made.run.folder / "lists").iterdir())
    assert Run("output/both").evaluate().images == 4
