"""The settings that changed between a training and its resumption."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: What may differ without changing what is learnt, as patterns of paths.
INDIFFERENT = (
    r"Infer\..*|profiler_options|Metric\..*|Recipe\.unfuse.*|Arch\.pretrained|Arch\.use_ssld",
    r"Global\.(checkpoints|pretrained_model|output_dir|save_inference_dir|print_batch_step|save_interval|patience|overwrite)",
    r"Global\.(device|use_visualdl|eval_during_train|eval_interval|start_eval_epoch|print_mem_info|image_shape)",
    r"DataLoader\..*\.(num_workers|use_shared_memory|prefetch_factor)",
)
SHOWN = 8


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations as far as it changes what is learnt: "path old → new"."""
    old, new = dict(_leaves(before, "")), dict(_leaves(now, ""))
    found = []
    for path in dict.fromkeys([*old, *new]):
        was, says = old.get(path), new.get(path)
        if was != says and not any(re.fullmatch(pattern, path) for pattern in INDIFFERENT):
            found.append(f"{path} {_text(was)} → {_text(says)}")
    return found


def in_words(found: list[str]) -> str:
    """The first few of `changes`, and how many more there are."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _leaves(node: Any, above: str) -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if items is None or (isinstance(node, list) and not any(isinstance(item, (Mapping, list)) for item in node)):
        if node is not None:
            yield above, node
        return
    for key, value in items:
        yield from _leaves(value, f"{above}.{key}" if above else str(key))


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
