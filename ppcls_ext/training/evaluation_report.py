"""The option --report of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppcls_ext.config.folder import config_text
from ppcls_ext.config.trained_with import describe
from ppcls_ext.report.evaluation_report import write_evaluation_report
from ppcls_ext.training.answers import Answers


class EvaluationReport:
    """Collects the answers of an evaluation that is to come, and writes the report.

    Args:
        engine: ours, built, in its mode "eval".
        target: the folder to write to; True for "report" in the run's folder.

    Raises:
        PpclsExtError: matplotlib is missing, or the evaluation is of a kind that has no report.
    """

    def __init__(self, engine: Any, target: str | bool) -> None:
        self._engine, self._answers = engine, Answers(engine)
        self._folder = engine.folder / "report" if target is True else Path(target)

    def write(self) -> Path:
        """Writes the report; returns its page."""
        engine = self._engine
        evaluation = self._answers.evaluation(describe(engine.resolved, "eval")["class_names"])
        figures = {"Curves": engine.folder / "curves.png", "Pictures a class": engine.folder / "data.png"}
        title = f"{engine.config['Arch']['name']}: evaluation"
        return write_evaluation_report(evaluation, self._folder, title, config_text(engine.resolved), figures)
