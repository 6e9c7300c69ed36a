"""The documentation as a whole: what is run, what is stamped, and the pages that the package carries."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from ppcls_ext.commands.main import main
from ppcls_ext.commands.pages import HELPS, PACKAGE, find_pages, near
from tests.test_docs import BLOCK, PAGES, RUN

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ENGLISH = sorted(
    path.relative_to(DOCS).with_suffix("").as_posix()
    for path in DOCS.rglob("*.md")
    if DOCS / "zh" not in path.parents  # not "zh" in its parts: a checkout may be in a folder of that name
)
#: Pages with a test of their own: tests/test_blocks.py.
ELSEWHERE = {"howto/blocks"}
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))


@pytest.mark.parametrize("page", ENGLISH)
def test_every_block_of_commands_is_run_or_says_why_not(page):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert not re.search(r"^```\n(?!\n|$)", re.sub(r"^```\S+\n.*?^```$", "", text, flags=re.M | re.S), re.M), "no kind"
    left = [block for mark, kind, block in BLOCK.findall(text) if kind in RUN and not mark]
    assert not left or page in ELSEWHERE or any(page in pages for pages in PAGES), left[0]


def stamp(page: Path) -> str:
    """What the Chinese page ends with that follows this version of an English one."""
    return f"<!-- follows {hashlib.sha256(page.read_bytes()).hexdigest()[:12]} -->"


def test_chinese_pages_follow_the_english_ones():
    behind = []
    for page in sorted((DOCS / "zh").rglob("*.md")):
        english = DOCS / page.relative_to(DOCS / "zh")
        assert english.is_file(), f"{page} has no page in English that it could follow"
        if page.name != "index.md" and page.read_text(encoding="utf-8").rstrip().splitlines()[-1] != stamp(english):
            behind.append(
                f"{page.relative_to(ROOT)}: follow docs/{english.relative_to(DOCS)}, and end in {stamp(english)}"
            )
    assert not behind, "\n".join(behind)


def structure(page: Path) -> dict[str, list[str]]:
    """What a page has in every language: commands but for their comments, levels of headings, tables, links."""
    text = page.read_text(encoding="utf-8")
    code = [(kind, re.sub(r"\s*#.*", "", block)) for _, kind, block in BLOCK.findall(text) if kind in RUN]
    prose = re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {
        "blocks": [f"{kind}\n{block}" for kind, block in code],
        "headings": re.findall(r"^#+(?= )", prose, re.MULTILINE),
        "rows": [f"{line.count('|')} columns" for line in prose.splitlines() if line.startswith("|")],
        "links": sorted(re.findall(r"\]\((?:[^()]*/)?([^()/#]+)(?:#[^()]*)?\)", prose)),
    }


@pytest.mark.parametrize("page", [page for page in ENGLISH if page.startswith(("start/", "howto/"))])
def test_chinese_pages_are_built_like_the_english_ones(page):
    chinese, english = structure(DOCS / "zh" / f"{page}.md"), structure(DOCS / f"{page}.md")
    for part, ours in english.items():
        assert chinese[part] == ours, part


@pytest.mark.parametrize("language", [[], ["--chinese"]], ids=["English", "Chinese"])
def test_pages_are_listed_and_printed(language, capsys):
    assert main(["docs", *language]) == 0
    listed = capsys.readouterr().out
    assert f"ppcls-ext docs {' '.join([*language, 'TOPIC'])} prints a page" in listed
    known = {*find_pages(), "api", "commands", "bench"}, set(find_pages("zh"))
    for topic, page in find_pages("zh" if language else "").items():
        assert re.search(rf"^  {topic} +{re.escape(page.title)}$", listed, re.MULTILINE)
        assert main(["docs", *language, topic]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"# {page.title}\n")
        assert "<!--" not in printed
        for chinese, told in re.findall(r"ppcls-ext docs (--chinese )?([a-z][a-z0-9-]+)", printed):
            assert told in known[bool(chinese)], told
            assert chinese or not language or told not in known[True], f"{topic} leads from Chinese to English: {told}"


def test_an_unknown_topic_names_the_pages_that_speak_of_it(capsys):
    assert main(["docs", "calibration"]) == 1
    assert capsys.readouterr().err.startswith("error: no page is called 'calibration': it stands in ")
    assert "quantize" in near("int8", find_pages())
    assert main(["docs", "xyzzy"]) == 1
    assert capsys.readouterr().err == "error: no page is called 'xyzzy': ppcls-ext docs lists all\n"


def test_errors_name_pages_that_exist():
    pages = find_pages()
    assert len(pages) > 25
    for place, topic in HELPS.items():
        module, _, function = place.partition(":")
        assert f"def {function}" in (PACKAGE / f"{module}.py").read_text(encoding="utf-8"), place
        assert topic in pages


@pytest.mark.parametrize(
    ("arguments", "page"),
    [
        (["make-lists", "empty"], "own-images"),
        (["make-lists", "empty", "--labels", "table.csv"], "multi-label"),
        (["predict", "none.onnx", "a.jpg"], None),
    ],
)
def test_an_error_ends_with_its_page(arguments, page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("image,cat\na.jpg,2\n")
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert ("(more: ppcls-ext docs" in line) == (page is not None)
    assert page is None or line.endswith(f" (more: ppcls-ext docs {page})")


def test_the_table_of_targets_is_made_of_its_figures():
    from benchmarks import targets

    rows = targets.read_rows(DOCS / "bench" / "targets.csv")
    expected = [(name, form) for name in ("onnx", *targets.TARGETS) for form in targets.FORMATS[name].precisions]
    for name in targets.MODELS:
        own = [row for row in rows if row["model"] == name]
        assert [(row["target"], row["precision"]) for row in own] == expected
        assert all(row["difference"] and row["same"] for row in own if row["target"] != "onnx")
        assert [bool(row["time"]) for row in own] == [row["target"] != "coreml" for row in own], "it is computed"
    assert (DOCS / "bench" / "targets.md").read_text(encoding="utf-8").endswith(targets.tables(rows))


def test_the_table_of_recipes_is_made_of_its_figures():
    from benchmarks import recipe_search

    rows = recipe_search.read_rows(recipe_search.RESULTS)
    assert rows
    names = {re.sub(rf"^{recipe_search.AVERAGE} of \d+: ", "", row["experiment"]) for row in rows}
    assert names <= set(recipe_search.EXPERIMENTS), "the table would leave some out"
    text = recipe_search.PAGE.read_text(encoding="utf-8")
    assert text.endswith(f"\n{recipe_search.table(rows)}\n"), "run benchmarks/recipe_search.py --page"


def test_no_page_calls_the_command_of_mnn():
    """It installs a package with pip before it converts; `_tools`, which it calls, does not."""
    for page in DOCS.rglob("*.md"):
        for _, _, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            assert not re.search(r"^(\$ )?(\S*/)?mnn(convert|quant)? |MNN\.tools", block, re.MULTILINE), page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_what_their_text_says(path):
    jupytext = pytest.importorskip("jupytext")
    made, kept = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    hint = "run make notebooks"
    assert [(one.cell_type, one.source) for one in made.cells] == [(one.cell_type, one.source) for one in kept.cells], (
        hint
    )
    assert not [one for one in kept.cells if one.get("outputs") or one.get("execution_count")], "outputs are stripped"


def test_notebooks_have_the_same_code():
    """In two languages: but for comments, of which each has its own."""
    texts = [re.sub(r" *#.*", "", path.read_text(encoding="utf-8")) for path in NOTEBOOKS]
    assert len(texts) == 2
    assert texts[0].split() == texts[1].split()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """The English one: the other has the same code."""
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    monkeypatch.setenv("NOTEBOOK_EPOCHS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = jupytext.read(NOTEBOOKS[0])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [text.get("text", "") for cell in notebook.cells for text in cell.get("outputs", ())]
    assert any("FasterNet_T0.onnx" in text for text in printed)
    assert (tmp_path / "output" / "FasterNet_T0" / "FasterNet_T0.onnx").is_file()
