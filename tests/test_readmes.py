"""README_ch.md stays in step with README.md: the same code, tables, figures, links and headings, in two languages."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: What `make matrix` writes stands in README.md alone.
MATRIX = re.compile(r"<!-- matrix.*?<!-- end of matrix -->", re.DOTALL)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    return MATRIX.sub("", (ROOT / name).read_text(encoding="utf-8"))


ENGLISH, CHINESE = read("README.md"), read("README_ch.md")
PROSE = [CODE.sub("", text) for text in (ENGLISH, CHINESE)]


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


@pytest.mark.parametrize(
    "found",
    [
        lambda text: Counter({" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)}),
        figures,
        lambda text: Counter(re.findall(r"\]\(([^)#]+)", text.replace("README_ch.md", "").replace("README.md", ""))),
    ],
    ids=["commands and names", "figures", "links"],
)
def test_the_text_names_the_same(found):
    english, chinese = map(found, PROSE)
    assert chinese == english, difference(english, chinese)


@pytest.mark.parametrize("name", ["README.md", "README_ch.md"])
def test_links_lead_somewhere(name):
    text = CODE.sub("", read(name))
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (ROOT / target).exists(), f"{name}: no {target}"
    known = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", text, re.M)}
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in known, f"{name}: no heading for #{anchor}"
