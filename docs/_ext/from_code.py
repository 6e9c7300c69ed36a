"""What pages take from the code while they are built: `<!-- commands -->` and the like become tables and lists."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
from collections.abc import Iterator
from unittest import mock

from sphinx.application import Sphinx

from ppcls_ext.commands.pages import without_proofs
from ppcls_ext.commands.table import COMMANDS
from ppcls_ext.config.load import load_config
from ppcls_ext.config.train_options import DEFAULT, TRAIN_OPTIONS
from ppcls_ext.models.figures import FIGURES


class _Found(Exception):  # noqa: N818  it is no error
    """Carries the parser that was about to print its help."""


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command's name, and the argument parser that it makes."""

    def found(self: argparse.ArgumentParser, *_: object) -> None:
        raise _Found(self)

    for name, command in COMMANDS.items():
        main = getattr(importlib.import_module(f"ppcls_ext.commands.{command.module}"), command.function)
        with mock.patch.object(argparse.ArgumentParser, "print_help", found), contextlib.redirect_stdout(io.StringIO()):
            try:
                main(["--help"])
            except _Found as error:
                yield name, error.args[0]


def commands() -> str:
    """All commands, with their usage, options and examples."""
    return "\n\n".join(_command(name, parser) for name, parser in parsers())


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    os.environ["COLUMNS"] = "100"
    lines = [f"## {name}", "", _text(" ".join((parser.description or "").split())), ""]
    lines += ["```text", parser.format_usage().strip(), "```", ""]
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if one.help != argparse.SUPPRESS and one.dest != "help"]
        if actions and group.title not in ("positional arguments", "options", "optional arguments"):
            lines += [f"*{_text(group.title or '')}*", ""]
        for action in actions:
            shown = formatter._format_action_invocation(action)
            lines += [f"`{shown}`", f": {_text(' '.join(formatter._expand_help(action).split()) or '—')}", ""]
    if parser.epilog:
        lines += ["```text", parser.epilog, "```"]
    return "\n".join(lines)


def train_options() -> str:
    """The short options of train: what each sets, and its value in the default configuration."""
    config = load_config(DEFAULT)
    rows = ["| option | in Python | sets | unless given |", "|---|---|---|---|"]
    for option in TRAIN_OPTIONS:
        value = option.value_in(config)
        fields = ", ".join(f"`{field}`" for field in option.fields)
        flag = f"{option.flag} {option.metavar}".strip()
        rows.append(f"| `{flag}` | `{option.name}` | {fields} | {_default(value)} |")
    return "\n".join(rows)


def _default(value: object) -> str:
    return "" if value is None else f"`{value}`"


def model_names() -> str:
    """The names of all models, in one line."""
    return ", ".join(f"`{name}`" for name in FIGURES)


PARTS = {"commands": commands, "train options": train_options, "model names": model_names}


def _text(text: str) -> str:
    """Plain text for a Markdown page: what Markdown would obey is escaped, but for backticks."""
    return re.sub(r"([\\*_{}\[\]<>#|~$])", r"\\\1", text)


def _fill_in(_: Sphinx, __: str, content: list[str]) -> None:
    content[0] = without_proofs(content[0])
    content[0] = re.sub(
        r"^<!-- (" + "|".join(PARTS) + ") -->$", lambda found: PARTS[found[1]](), content[0], flags=re.MULTILINE
    )


def setup(app: Sphinx) -> dict:
    """Called by Sphinx."""
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
