"""In the place of Python's `eval`, as PaddleClas's modules see it: numbers, literals and names, and no code.

`expressions` checks beforehand, with their place in the YAML file, the texts that are known to be evaluated. This is
for the others: another version's, or those of a script that reads its configuration itself.
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import Any

from ppcls_ext.configuration.arithmetic import evaluate
from ppcls_ext.configuration.literals import read_literal
from ppcls_ext.configuration.names import find
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.pickles import shown


class Evaluator:
    """`eval` for one module.

    Args:
        module: whose names the texts may use.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __call__(self, text: str, *scopes: dict) -> Any:
        """The value of a literal or of plain arithmetic, a class or model of the module's, or data of the module's.

        Raises:
            PpclsExtError: the text is anything else.
        """
        if isinstance(text, str) and not scopes:
            for read in (read_literal, evaluate):
                with contextlib.suppress(ValueError):
                    return read(text)
            data = vars(self.module).get(text)
            if isinstance(data, (bool, int, float, str, tuple, list, dict)) and text.isidentifier():
                return data
            value = find(self.module, text)
            if value is not None:
                return value
        raise PpclsExtError(
            f"PaddleClas would evaluate {shown(str(text))} in {self.module.__name__}: expected a number, or the name "
            "of a class that stands there"
        )


def guard() -> None:
    """Gives each of PaddleClas's modules that is imported by now its `Evaluator`; a second call changes nothing."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "ppcls" or not isinstance(module, ModuleType):
            continue
        present = vars(module).get("eval")  # an Evaluator of another module came with `import *`
        if present is None or (isinstance(present, Evaluator) and present.module is not module):
            module.eval = Evaluator(module)
