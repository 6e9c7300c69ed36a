"""README.md can be read in two minutes and names what exists; README_ch.md has the same content in Chinese."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from ppcls_ext.commands.main import main
from tests.test_docs import blocks, commands

ROOT = Path(__file__).resolve().parents[1]
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NAMES = ("README.md", "README_ch.md")
LINES, BYTES = 200, 10_000
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in NAMES)
PROSE = [CODE.sub("", text) for text in (ENGLISH, CHINESE)]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short(name):
    text = (ROOT / name).read_bytes()
    assert len(text.splitlines()) <= LINES
    assert len(text) <= BYTES


def shown(text: str) -> list[str]:
    """The commands that the README shows with their output."""
    (console,) = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [command for command, _ in commands(console)]


def test_its_commands_are_those_of_the_first_steps():
    """Which tests/test_docs.py runs, on fewer images."""
    run = [
        command
        for block in blocks("start/first_steps")
        if block.kind == "console"
        for command, _ in commands(block.text)
    ]
    ours = shown(ENGLISH)
    assert len(ours) == 4
    for command in ours:
        assert any(tried.startswith(command.rpartition("/image_")[0] or command) for tried in run), command


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=NAMES)
def test_its_commands_and_options_exist(text, capsys):
    """Of every `ppcls-ext COMMAND …`, and of the table of options, whose defaults are those of MobileOne_S0."""
    for line in re.findall(r"ppcls-ext ([a-z][^`\n]*)", text):
        command, *rest = line.split()
        helped = help_of(command, capsys)
        for option in (word for word in rest if word.startswith("--")):
            assert option in helped, f"ppcls-ext {line}"
    train = help_of("train", capsys)
    rows = re.findall(r"^\| `(--[a-z-]+)` \| ([^|]*) \|", text, re.MULTILINE)
    assert len(rows) == 6
    for option, default in rows:
        told = re.search(rf"^  {option} .*(?:\n {{6,}}.*)*", train, re.MULTILINE)[0]
        assert not default.strip() or f"{default.strip('` ')})" in told or option == "--size", told


def help_of(command: str, capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return capsys.readouterr().out


def headings(text: str) -> list[str]:
    return re.findall(r"^#+(?= )", text, re.MULTILINE)


def table_rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def numbers(text: str) -> Counter:
    return Counter(re.findall(r"(?<![\w.])\d+(?:\.\d+)*", text))


def figures(text: str) -> Counter:
    """Numbers with a decimal point, wherever they stand; whole ones may be words in one of the languages."""
    return Counter(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", text))


def difference(english: Counter, chinese: Counter) -> str:
    return (
        f"README_ch.md is not in step with README.md; only in README.md: {sorted(english - chinese)}; "
        f"only in README_ch.md: {sorted(chinese - english)}"
    )


def test_the_code_is_the_same():
    ours, theirs = CODE.findall(ENGLISH), CODE.findall(CHINESE)
    for number, (english, chinese) in enumerate(zip(ours, theirs), 1):
        assert chinese == english, f"copy code block {number} of README.md to README_ch.md"
    assert len(ours) == len(theirs), "a code block is missing in one of the READMEs"


def test_the_headings_are_the_same():
    english, chinese = map(headings, PROSE)
    assert chinese == english, "README_ch.md needs the headings of README.md, translated, in the same order"


def test_the_tables_are_the_same():
    rows = list(zip(*map(table_rows, PROSE)))
    for english, chinese in rows:
        assert english.count("|") == chinese.count("|"), f"README_ch.md: other columns than in {english}"
        assert numbers(english) == numbers(chinese), f"README_ch.md: take the numbers of\n{english}\ninto\n{chinese}"
    assert len(rows) == len(table_rows(PROSE[0])) == len(table_rows(PROSE[1])), "a row is missing in one of the READMEs"


def english_page(target: str) -> str:
    """What a link of README_ch.md leads to has an English form, where it is in Chinese itself."""
    return target.replace("docs/zh/", "docs/").replace("_zh.ipynb", ".ipynb").replace("README_ch", "README")


@pytest.mark.parametrize(
    "found",
    [
        lambda text: Counter({" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)}),
        figures,
        lambda text: Counter(english_page(target) for target in re.findall(r"\]\(([^)]+)", text)),
    ],
    ids=["commands and names", "figures", "links"],
)
def test_the_text_names_the_same(found):
    english, chinese = map(found, PROSE)
    assert chinese == english, difference(english, chinese)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=NAMES)
def test_links_lead_somewhere(text):
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]+))?", CODE.sub("", text)):
        if "://" not in target:
            assert (ROOT / target).exists(), target
            assert not anchor or anchor in anchors(ROOT / target), f"{target} has no heading for #{anchor}"


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked to."""
    titles = re.findall(r"^#+ (.*)", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
