"""The segmenters of configs/segmentation: PaddleSeg's own models on our backbones, for the data set of shapes."""

from __future__ import annotations

from ppcls_ext.config_table.recipe import Config
from ppcls_ext.config_table.tasks import SHAPES

_HEADER = """{title} on {backbone}, on coloured shapes at 96 px. Needs a checkout of PaddleSeg (develop).
  python tools/make_shapes_dataset.py
  python -m ppcls_ext PATH/tools/train.py --config configs/segmentation/{name}.yml --do_eval --save_dir output/{name}
  python -m ppcls_ext PATH/tools/export.py --config configs/segmentation/{name}.yml --input_shape 1 3 96 96 \\
      --model_path output/{name}/best_model/model.pdparams --save_dir output/{name}/inference
{seen}
Other data: dataset_root and the lists, num_classes (the background counts), crop_size, iters.
"""

#: What came out of benchmarks/downstream.py; minutes are one processor core's.
_SEEN = {
    "pp_liteseg_mobileone_s0": "Run: mIoU 0.768 after 6.3 minutes on one core; export and ONNX.",
    "deeplabv3p_repvgg_a0": "Run: mIoU 0.946 after 5.1 minutes on one core; export and ONNX.",
    "fcn_fasternet_t0": "Run: mIoU 0.915 after 0.9 minutes on one core; export and ONNX.",
}


def _config(model: Config, losses: int, iterations: int, learning_rate: float) -> Config:
    """A whole configuration.

    Args:
        model: PaddleSeg's section.
        losses: outputs of the model in training.
        iterations: in all.
        learning_rate: AdamW's, before the decay.
    """
    classes = SHAPES.classes + 1  # the background
    dataset = {"type": "Dataset", "dataset_root": SHAPES.root, "num_classes": classes}
    normalise = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return {
        "batch_size": 8,
        "iters": iterations,
        "train_dataset": {
            **dataset,
            "mode": "train",
            "train_path": f"{SHAPES.root}train.txt",
            "transforms": [
                {"type": "RandomPaddingCrop", "crop_size": [SHAPES.size, SHAPES.size]},
                {"type": "RandomHorizontalFlip"},
                normalise,
            ],
        },
        "val_dataset": {**dataset, "mode": "val", "val_path": f"{SHAPES.root}val.txt", "transforms": [normalise]},
        "optimizer": {"type": "AdamW", "weight_decay": 0.01},
        "lr_scheduler": {
            "type": "PolynomialDecay",
            "learning_rate": learning_rate,
            "end_lr": 0,
            "power": 0.9,
            "warmup_iters": 20,
            "warmup_start_lr": 1.0e-5,
        },
        "loss": {"types": [{"type": "CrossEntropyLoss"}] * losses, "coef": [1] * losses},
        "model": {**model, "num_classes": classes},
    }


PP_LITESEG: Config = {
    "type": "PPLiteSeg",
    "backbone": {"type": "MobileOne_S0", "stem": True},
    "cm_bin_sizes": [1, 3],  # the last map has 3 × 3 pixels; other bins have no counterpart in ONNX
    "arm_out_chs": [32, 64, 128],
    "seg_head_inter_chs": [32, 64, 64],
}
DEEPLABV3P: Config = {
    "type": "DeepLabV3P",
    "backbone": {"type": "RepVGG_A0"},
    "backbone_indices": [0, 3],
    "aspp_ratios": [1, 2, 3, 4],
    "align_corners": False,
}
FCN: Config = {
    "type": "FCN",
    "backbone": {"type": "FasterNet_T0"},
    "backbone_indices": [1],
    "channels": 80,
    "align_corners": False,
}


def _entry(name: str, title: str, backbone: str, config: Config) -> tuple[str, tuple[str, Config]]:
    return f"segmentation/{name}.yml", (
        _HEADER.format(name=name, title=title, backbone=backbone, seen=_SEEN[name]),
        config,
    )


#: file → header and configuration.
SEGMENTATION: dict[str, tuple[str, Config]] = dict(
    [
        _entry("pp_liteseg_mobileone_s0", "PP-LiteSeg", "MobileOne_S0", _config(PP_LITESEG, 3, 480, 0.004)),
        _entry("deeplabv3p_repvgg_a0", "DeepLabV3+", "RepVGG_A0", _config(DEEPLABV3P, 1, 480, 0.001)),
        _entry("fcn_fasternet_t0", "FCN", "FasterNet_T0", _config(FCN, 1, 960, 0.004)),
    ]
)
