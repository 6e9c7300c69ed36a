"""Misspelt sections and fields."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterator
from typing import Any

from ppcls_ext.errors import PpclsExtError

logger = logging.getLogger("ppcls_ext")

#: What PaddleClas and this project read, by section; a name that is nearly one of these is taken for a mistake.
KNOWN = {
    "": "Global AMP Arch DataLoader EMA IndexProcess Infer Loss Metric MLDecoder Optimizer Recipe SSL Slim UnLabelLoss "
    "profiler_options output_dir",
    "Global": "checkpoints class_num device distributed epochs eval_during_train eval_interval eval_mode export_for_fd "
    "feature_binarize feature_normalize hpi_config_path image_channel image_shape image_size infer_imgs "
    "iter_per_epoch log_ranks output_dir overwrite patience pdx_model_name pretrained_model print_batch_step report "
    "print_mem_info re_ranking retrieval_feature_from save_inference_dir save_interval seed sim_block_size "
    "start_eval_epoch to_static train_mode uniform_output_enabled update_freq use_dali use_multilabel "
    "use_visualdl warmup_iter",
    "Arch": "Backbone BackboneStopLayer Head Neck class_num freeze_befor freeze_params_list fused infer_add_softmax "
    "infer_model_name infer_output_key is_rec models name pretrained pretrained_list return_patterns return_stages "
    "stop_after use_ml_decoder use_ssld use_sync_bn",
    "Infer": "PostProcess batch_size infer_imgs infer_list save_dir save_image transforms",
}


#: What stands below some sections, by the path of the mapping.
BELOW = {
    r"AMP": "use_amp level scale_loss use_dynamic_loss_scaling use_fp16_test use_promote",
    r"Loss": "Train Eval Basic MetaTrain MetaTest",
    r"(Metric|UnLabelLoss)": "Train Eval",
    r"DataLoader": "Train Eval Test Gallery Query UnLabelTrain Metalearning class_num mean std",
    r"DataLoader\.\w+(\.(Gallery|Query|Train|Eval))?": "dataset sampler loader Gallery Query Train",
    r"DataLoader\.(\w+\.){1,2}loader": "num_workers use_shared_memory",
}
#: Sections whose fields are looked for where one stands in a wrong section; other sections' own are not all known.
ELSEWHERE = {"": ("Global", "Arch", "Infer"), "Global": ("Arch", "Infer"), "Infer": ("Global",)}
NEARLY = 0.8  # difflib's ratio from which two names count as one misspelt


def check_structure(config: dict) -> None:
    """Raises PpclsExtError where a name between a section and what is built by name is nearly a known one."""
    for path, fields in _mappings(config, ""):
        for pattern, known in BELOW.items():
            if re.fullmatch(pattern, path):
                for field in fields:
                    _refuse_if_near(field, known.split(), f"{path}.")


def _mappings(node: dict, above: str, depth: int = 0) -> Iterator[tuple[str, dict]]:
    for key, value in node.items():
        path = f"{above}.{key}" if above else str(key)
        if isinstance(value, dict) and depth < 4:
            yield path, value
            yield from _mappings(value, path, depth + 1)


def _refuse_if_near(field: Any, known: list[str], prefix: str) -> None:
    near = difflib.get_close_matches(str(field), known, n=1, cutoff=NEARLY)
    if near and field not in known:
        raise PpclsExtError(f"{prefix}{field} is unknown: did you mean {prefix}{near[0]}?")


def check_spelling(section: str, fields: Any) -> None:
    """Raises PpclsExtError where a field of `section`, "" for the sections themselves, is nearly a known one."""
    known = KNOWN[section].split()
    for field in fields if isinstance(fields, dict) else ():
        _refuse_if_near(field, known, f"{section}." if section else "")
        for other in ELSEWHERE.get(section, ()) if field not in known else ():
            if field in KNOWN[other].split():
                if section:
                    raise PpclsExtError(f"{section}.{field} is unknown: it belongs in {other}")
                # some of PaddleClas's own files have such a field
                logger.warning("%s stands outside the sections and is left out: it belongs in %s", field, other)
