"""The pages of docs/: their commands run on tiny data and print what is shown, but for numbers.

A block below a comment that says "not run: …" or "to be run after the merge" is left out. tests/test_site.py looks for
blocks that are neither run nor marked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest
import scipy.io

from ppcls_ext.data import shapes

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"^(<!-- (?:not run: [^\n]+|to be run after the merge) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
#: Kinds of blocks that are run.
RUN = ("console", "python", "output", "diff", "bash", "sh")
#: The pages that are run one after the other in one folder.
PAGES = (
    ("howto/own_images", "howto/deploy", "howto/quantize", "howto/runtimes"),
    ("howto/multi_label",),
    ("howto/fine_tune", "howto/imbalance"),
    ("howto/distributed",),
    ("howto/python", "reference/api"),
    ("howto/add_a_family",),
    ("start/first_steps",),
)
CLASSES, PICTURES = ("canna lily", "passion flower", "rose", "sunflower", "water lily"), 16
COPIED = ("ppcls_ext", "tests", "tools", "benchmarks", "configs")
NUMBER = r"\d[\d.,_]*(?:e[+-]?\d+)?"


class Block(NamedTuple):
    """What stands between fences and is to be run, and what kind it is."""

    kind: str
    text: str


def blocks(page: str) -> list[Block]:
    found = BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    return [Block(kind, text) for mark, kind, text in found if not mark and kind in RUN]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, with the lines that the page shows below it."""
    for part in text.split("$ ")[1:]:
        command, *shown = part.splitlines()
        yield command, shown


def pattern(line: str) -> str:
    """Where a shown line begins so does a printed one: any number for a number, anything for …"""
    words = re.split(rf"({NUMBER})|(…)|(\s+)", line)
    known = [part for part in words if part]
    return "".join(
        NUMBER if re.fullmatch(NUMBER, part) else ".*" if part == "…" else r"\s+" if part.isspace() else re.escape(part)
        for part in known
    )


def run_page(page: str, folder: Path, env: dict[str, str]) -> None:
    """Runs the blocks of a page one after the other in `folder`; an output is what the block before it prints."""
    printed = ""
    for block in blocks(page):
        if block.kind == "diff":
            apply(block.text, folder)
        elif block.kind == "python" and block.text.startswith("# ppcls_ext/"):
            (folder / block.text.splitlines()[0][2:]).write_text(block.text.partition("\n")[2], encoding="utf-8")
        elif block.kind == "python":
            printed = run([sys.executable, "-c", block.text], page, folder, env)
        elif block.kind == "output":
            require_printed(block.text.splitlines(), printed, page)
        else:
            assert block.kind == "console", f"docs/{page}.md: write a block of commands as console, with $"
            for command, shown in commands(block.text):
                require_printed(shown, run(["bash", "-c", command], page, folder, env), page)


def require_printed(shown: list[str], printed: str, page: str) -> None:
    for line in shown:
        found = re.search(rf"^{pattern(line)}", printed, re.MULTILINE)
        assert found, f"docs/{page}.md shows\n{line}\nand printed\n{printed}"


def run(command: list[str], page: str, folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    printed = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, f"docs/{page}.md: {command[-1]}\n{printed}"
    return printed


def apply(text: str, folder: Path) -> None:
    """Puts the lines with + behind the line before them."""
    name, *lines = text.splitlines()
    path = folder / name.removeprefix("+++ ")
    before = "\n".join(line[1:] for line in lines if line[0] == " ")
    after = "\n".join(line[1:] for line in lines)
    content = path.read_text(encoding="utf-8")
    assert content.count(f"\n{before}\n") == 1, f"docs: {path} has no line {before}"
    path.write_text(content.replace(f"\n{before}\n", f"\n{after}\n"), encoding="utf-8")


@pytest.fixture
def env(tmp_path) -> dict[str, str]:
    """With the command `ppcls-ext` and this package, as an installation has them."""
    script = tmp_path / "bin" / "ppcls-ext"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom ppcls_ext.commands.main import main\nsys.exit(main())\n")
    script.chmod(0o755)
    path = os.pathsep.join([str(script.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


@pytest.fixture
def flowers(shared, tmp_path) -> Path:
    """A folder with `flowers/`, one folder a class, and Apple's weights."""
    source, folder = shared / "flowers102_64", tmp_path / "work"
    labels = scipy.io.loadmat(source / "imagelabels.mat")["labels"][0]
    names = json.loads((source / "cat_to_name.json").read_text(encoding="utf-8"))
    taken = dict.fromkeys(CLASSES, 0)
    with tarfile.open(source / "102flowers.tgz") as archive:
        for member in sorted((one for one in archive if one.name.endswith(".jpg")), key=lambda one: one.name):
            name = names[str(labels[int(member.name[-9:-4]) - 1])]
            if taken.get(name, PICTURES) < PICTURES:
                taken[name] += 1
                path = folder / "flowers" / name / Path(member.name).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
    shutil.copy(shared / "weights" / "mobileone_s0.pth.tar", folder)
    return folder


def test_from_images_to_int8(flowers, env):
    for page in PAGES[0]:
        run_page(page, flowers, env)


@pytest.fixture
def photos(shared, tmp_path) -> Path:
    """A folder with `photos/`, images of shapes and the table of their labels, and Apple's weights."""
    folder = tmp_path / "work"
    shapes.make(folder / "made", size=64, train=120, val=1)
    coco = json.loads((folder / "made" / "annotations" / "train.json").read_text(encoding="utf-8"))
    shown = {(one["image_id"], one["category_id"]) for one in coco["annotations"]}
    (folder / "photos").mkdir()
    rows = [["image", *(kind["name"] for kind in coco["categories"])]]
    for image in coco["images"]:
        shutil.copy(folder / "made" / "images" / image["file_name"], folder / "photos")
        labels = (str(int((image["id"], kind["id"]) in shown)) for kind in coco["categories"])
        rows.append([Path(image["file_name"]).name, *labels])
    (folder / "photos" / "labels.csv").write_text("".join(f"{','.join(row)}\n" for row in rows), encoding="utf-8")
    shutil.copy(shared / "weights" / "mobileone_s0.pth.tar", folder)
    return folder


def test_several_labels_an_image(photos, env):
    run_page(*PAGES[1], photos, env)


@pytest.mark.parametrize("pages", PAGES[2:5], ids=lambda pages: pages[0])
def test_other_trainings(pages, flowers, env):
    for page in pages:
        run_page(page, flowers, env)


def test_a_new_family(env, tmp_path):
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / "work" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / "work")
    run_page(*PAGES[5], tmp_path / "work", {**env, "PYTHONPATH": str(tmp_path / "work")})


def test_first_steps(flowers, env):
    """Four images of each class are kept for the end."""
    for folder in sorted((flowers / "flowers").iterdir()):
        kept = flowers / "test_flowers" / folder.name
        kept.mkdir(parents=True)
        for path in sorted(folder.iterdir())[:4]:
            path.rename(kept / path.name)
    write_video(flowers / "flowers.avi", sorted((flowers / "test_flowers").rglob("*.jpg")))
    run_page(*PAGES[6], flowers, env)


def write_video(path: Path, images: list[Path]) -> None:
    """Half a second of each image, 10 frames a second."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    assert video.isOpened()
    for image in images:
        for _ in range(5):
            video.write(cv2.resize(cv2.imread(str(image)), (64, 64)))
    video.release()
