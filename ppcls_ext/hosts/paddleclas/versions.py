"""Differences between versions of PaddleClas, recognised from their code, as not every checkout tells its version.

The defects that an adaptation mends are recognised by that adaptation's own probe.
"""

from __future__ import annotations

from ppcls_ext.hosts.adaptation import mentions
from ppcls_ext.hosts.paddleclas.locate import activate


def adds_architecture() -> bool:
    """Returns whether PaddleClas itself writes to `output_dir/ARCH` (before 2.5.2) or to `output_dir`."""
    from ppcls.utils.save_load import save_model

    return mentions(save_model, "join(model_path, model_name)")


def profiles_with_removed_module() -> bool:
    """Returns whether PaddleClas profiles with `paddle.utils.profiler`, which this Paddle does not have."""
    import paddle
    from ppcls.utils import profiler

    return mentions(profiler, "paddle.utils.profiler") and not hasattr(paddle.utils, "profiler")


def multi_label_output() -> str:
    """Returns the class that tells the classes an image shows: develop's, which takes a threshold, or the older one."""
    source = activate(need_engine=True).path / "ppcls" / "data" / "postprocess" / "threshoutput.py"
    newer = "MultiLabelThreshOutput"
    return newer if f"class {newer}" in source.read_text(encoding="utf-8") else "MultiLabelTopk"


def asks_for_device_id() -> bool:
    """Returns whether each of several processes asks for its GPU in evaluation, as on develop."""
    from ppcls.engine.evaluation import classification

    return mentions(classification, "ParallelEnv().device_id")
