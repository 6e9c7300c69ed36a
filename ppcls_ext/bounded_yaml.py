"""YAML whose aliases, merge keys and numbers cost no more than its length explains."""

from __future__ import annotations

from typing import Any

import yaml

from ppcls_ext.errors import PpclsExtError

MAX_DEPTH = 32
"""Lists and mappings within each other; PaddleClas's own files have up to 10."""
MAX_VALUES = 50_000
"""Values after every alias and merge key is written out; PaddleClas's own files have up to 500."""
LONGEST_TEXT = 10_000
"""Characters of a text; some are parsed as Python, and ten times longer ones crash the parser of Python 3.9."""
LONGEST_NUMBER = 100
"""Characters of a number. YAML's sexagesimal 1:59:59… takes time that grows with the square of its length."""
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class Refused(yaml.MarkedYAMLError):
    """Beyond the limits; `problem` says of which, `problem_mark` where."""

    def __init__(self, why: str, mark: yaml.Mark) -> None:
        super().__init__(problem=f"refused: {why}", problem_mark=mark)


class BoundedLoader(yaml.SafeLoader):
    """SafeLoader that gives up at `MAX_DEPTH`; by itself it goes as deep as Python does, in quadratic time."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Makes the node of the next event, and those below it."""
        if self._depth > MAX_DEPTH:
            raise Refused(f"it is {_TOO_DEEP}", self.peek_event().start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def load_yaml(text: str, loader_class: type[BoundedLoader] = BoundedLoader) -> Any:
    """What a text holds, in bounded time and memory.

    Aliases let a few lines stand for more than any memory holds, and merge keys copy them. So the nodes are counted
    as if each alias were written out, before anything is made of them.

    Raises:
        Refused: it is beyond the limits.
        yaml.MarkedYAMLError: it is no YAML.
        PpclsExtError: it is YAML that cannot be made into values.
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
    except Exception as error:  # PyYAML raises many kinds for impossible dates and the like
        raise PpclsExtError(f"not YAML: {error}") from None


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]], above: list[yaml.Node]) -> tuple[int, int]:
    """How many values `node` stands for, and how deep they go; `known` are those of nodes that were met before."""
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
