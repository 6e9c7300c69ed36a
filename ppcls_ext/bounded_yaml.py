"""YAML whose aliases, merge keys and numbers cost no more than its length explains."""

from __future__ import annotations

from typing import Any

import yaml

from ppcls_ext.errors import PpclsExtError

MAX_DEPTH = 32
"""Lists and mappings within each other; PaddleClas's own files have up to 10."""
MAX_VALUES = 50_000
"""Values once every alias and merge key is expanded; PaddleClas's own files have up to 500."""
LONGEST_TEXT = 10_000
"""Characters of a string; some are parsed as Python, and strings ten times as long crash the parser of Python 3.9."""
LONGEST_NUMBER = 100
"""Characters of a number. YAML's sexagesimal 1:59:59… takes time that grows with the square of its length."""
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class Refused(yaml.MarkedYAMLError):
    """A document beyond the limits; `problem` says which limit, `problem_mark` where."""

    def __init__(self, why: str, mark: yaml.Mark) -> None:
        super().__init__(problem=f"refused: {why}", problem_mark=mark)


class BoundedLoader(yaml.SafeLoader):
    """SafeLoader that stops at `MAX_DEPTH`; by itself it goes as deep as Python's stack does, in quadratic time."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Makes the node of the next event and the nodes below it."""
        if self._depth > MAX_DEPTH:
            raise Refused(f"it is {_TOO_DEEP}", self.peek_event().start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def load_yaml(text: str, loader_class: type[BoundedLoader] = BoundedLoader) -> Any:
    """Parses a YAML text in bounded time and memory.

    Aliases let a few lines stand for more values than any memory holds, and merge keys copy them. So the nodes are
    counted as if each alias were expanded, before any value is constructed.

    Raises:
        Refused: the text is beyond the limits.
        yaml.MarkedYAMLError: it is not YAML.
        PpclsExtError: it is YAML whose values cannot be constructed.
    """
    try:
        loader = loader_class(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, {}, [])
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError:
        raise
    except Exception as error:  # PyYAML raises many kinds of errors for impossible dates and the like
        raise PpclsExtError(f"not YAML: {error}") from None


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]], above: list[yaml.Node]) -> tuple[int, int]:
    """Returns how many values `node` stands for and how deep they nest.

    Args:
        node: the node to measure.
        known: the results of the nodes that were measured before, by id.
        above: the nodes that contain this one.
    """
    if any(node is other for other in above):
        raise Refused("it holds itself through an alias", node.start_mark)
    if id(node) not in known:
        if isinstance(node, yaml.ScalarNode):
            longest = LONGEST_NUMBER if node.tag in _NUMBERS else LONGEST_TEXT
            if len(node.value) > longest:
                raise Refused(f"a value has more than {longest:,} characters", node.start_mark)
            known[id(node)] = (1, 0)
        else:
            children = [
                child for item in node.value for child in (item if isinstance(node, yaml.MappingNode) else [item])
            ]
            sizes = [_measure(child, known, [*above, node]) for child in children]
            known[id(node)] = (1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0))
    size, depth = known[id(node)]
    if size > MAX_VALUES:
        raise Refused(f"its aliases unfold to more than {MAX_VALUES:,} values", node.start_mark)
    if len(above) + depth > MAX_DEPTH:
        raise Refused(f"it is {_TOO_DEEP}", node.start_mark)
    return size, depth
