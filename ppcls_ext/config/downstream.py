"""The files of configs/detection and configs/segmentation, and the text of every file in configs/."""

from __future__ import annotations

from ppcls_ext.config.shipped import RECIPES, SHAPES, Config, render, render_sections

_DETECTION_HEADER = """\
{title} on {backbone}, on coloured shapes at 96 px. Needs a checkout of {host} (develop).
  python tools/make_shapes_dataset.py
  python -m ppcls_ext PATH/tools/train.py -c configs/detection/{name}.yml --eval
  python -m ppcls_ext PATH/tools/export_model.py -c configs/detection/{name}.yml \\
      -o weights=output/{name}/model_final.pdparams
{seen}
Other data: dataset_dir, num_classes, the sizes in the readers, epoch. On a GPU: use_gpu: true.
"""
#: What came out of benchmarks/downstream.py; minutes are one processor core's.
_DETECTION_RESULTS = {
    "picodet_mobileone_s0": "Run: AP50 0.962, mAP 0.673 after 5.4 minutes on one core; export and ONNX.\n"
    "From Apple's weights (MobileOne_S0.pretrained=… MobileOne_S0.fused=True epoch=20):\n"
    "AP50 0.998, mAP 0.821 after 2.0 minutes.",
    "ppyoloe_repvgg_a0": "Run: AP50 0.999, mAP 0.829 after 2.5 minutes on one core; export and ONNX.",
    "yolox_fasternet_t0": "Run: AP50 1.000, mAP 0.830 after 3.2 minutes on one core; export and ONNX.",
    "yolov5_repvgg_a0": "Run: AP50 0.996, mAP 0.738 after 3.7 minutes on one core; export and ONNX.",
    "yolov7_mobileone_s0": "Run: AP50 0.930, mAP 0.552 after 10.9 minutes on one core; export and ONNX.",
    "yolov8_fasternet_t0": "Run: AP50 1.000, mAP 0.863 after 5.9 minutes on one core; export and ONNX.",
}
_NORMALISE = {"NormalizeImage": {"is_scale": True, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
_IN_ORDER: Config = {"Permute": {}}
_SIZE = [SHAPES.size, SHAPES.size]
_OF_PADDLEYOLO = ("YOLOv5", "YOLOv7", "YOLOv8")
#: Their losses take boxes as centre and size, parts of the image, in lists of each image's own length.
_WITH_ANCHORS = ("YOLOv5", "YOLOv7")


def _detection_config(name: str, architecture: str, epochs: int, learning_rate: float, sections: Config) -> Config:
    """A whole configuration.

    Args:
        name: name of the file, and of the folder in output/.
        architecture: the host's name of it.
        epochs: their number.
        learning_rate: AdamW's, before the cosine.
        sections: the sections of the architecture and its parts.
    """
    normalise = architecture != "YOLOX"  # which takes levels from 0 to 255
    anchors = architecture in _WITH_ANCHORS
    resize = {"Resize": {"interp": 1, "target_size": _SIZE, "keep_ratio": False}}
    prepare = [_NORMALISE, _IN_ORDER] if normalise else [_IN_ORDER]
    still = {"sample_transforms": [{"Decode": {}}, resize, *prepare]}
    dataset = {"name": "COCODataSet", "dataset_dir": SHAPES.root, "image_dir": "images"}
    return {
        "architecture": architecture,
        "metric": "COCO",
        "num_classes": SHAPES.classes,
        "use_gpu": False,
        "use_xpu": False,
        "use_mlu": False,
        "use_npu": False,
        "log_iter": 10,
        "save_dir": "output" if architecture in _OF_PADDLEYOLO else f"output/{name}",  # PaddleYOLO adds the name
        "snapshot_epoch": max(1, epochs // 3),
        "print_flops": False,
        "print_params": False,
        "find_unused_parameters": True,
        "pretrain_weights": None,
        "epoch": epochs,
        "LearningRate": {
            "base_lr": learning_rate,
            "schedulers": [
                {"name": "CosineDecay", "max_epochs": epochs},
                {"name": "LinearWarmup", "start_factor": 0.1, "steps": 50},
            ],
        },
        "OptimizerBuilder": {
            "clip_grad_by_norm": 10.0,
            "optimizer": {"type": "AdamW", "weight_decay": 0.02},
            "regularizer": None,
        },
        "export": {"post_process": True, "nms": True, "benchmark": False, "fuse_conv_bn": False},
        **sections,
        "worker_num": 0,
        "TrainDataset": {
            **dataset,
            "anno_path": "annotations/train.json",
            "data_fields": ["image", "gt_bbox", "gt_class", "is_crowd"],
        },
        "EvalDataset": {**dataset, "anno_path": "annotations/val.json", "allow_empty": True},
        "TestDataset": {"name": "ImageFolder", "anno_path": "annotations/val.json", "dataset_dir": SHAPES.root},
        "TrainReader": {
            "sample_transforms": [
                {"Decode": {}},
                {"RandomFlip": {"prob": 0.5}},
                resize,
                *([{"BboxXYXY2XYWH": {}}, {"NormalizeBox": {}}] if anchors else []),
            ],
            "batch_transforms": [*prepare, *([{"PadGT": {}}] if normalise and not anchors else [])],
            "batch_size": 8,
            "shuffle": True,
            "drop_last": True,
            "collate_batch": normalise and not anchors,
        },
        "EvalReader": {**still, "batch_size": 8},
        "TestReader": {"inputs_def": {"image_shape": [1, 3, *_SIZE]}, **still, "batch_size": 1},
    }


def _nms(score_threshold: float, nms_threshold: float) -> Config:
    return {
        "name": "MultiClassNMS",
        "nms_top_k": 1000,
        "keep_top_k": 100,
        "score_threshold": score_threshold,
        "nms_threshold": nms_threshold,
    }


_ASSIGNERS = {
    "static_assigner": {"name": "ATSSAssigner", "topk": 9},
    "assigner": {"name": "TaskAlignedAssigner", "topk": 13, "alpha": 1.0, "beta": 6.0},
}

PICODET: Config = {
    "PicoDet": {"backbone": "MobileOne_S0", "neck": "LCPAN", "head": "PicoHeadV2"},
    "MobileOne_S0": {"return_idx": [1, 2, 3]},
    "LCPAN": {"out_channels": 96, "use_depthwise": True, "num_features": 3},
    "PicoHeadV2": {
        "conv_feat": {
            "name": "PicoFeat",
            "feat_in": 96,
            "feat_out": 96,
            "num_convs": 2,
            "num_fpn_stride": 3,
            "norm_type": "bn",
            "share_cls_reg": True,
            "use_se": True,
        },
        "fpn_stride": [8, 16, 32],
        "feat_in_chan": 96,
        "prior_prob": 0.01,
        "reg_max": 7,
        "cell_offset": 0.5,
        "grid_cell_scale": 5.0,
        "static_assigner_epoch": 3,
        "use_align_head": True,
        **_ASSIGNERS,
        "loss_class": {"name": "VarifocalLoss", "use_sigmoid": False, "iou_weighted": True, "loss_weight": 1.0},
        "loss_dfl": {"name": "DistributionFocalLoss", "loss_weight": 0.5},
        "loss_bbox": {"name": "GIoULoss", "loss_weight": 2.5},
        "nms": _nms(0.025, 0.6),
    },
}

PPYOLOE: Config = {
    "norm_type": "bn",
    "depth_mult": 0.33,
    "width_mult": 0.25,
    "YOLOv3": {"backbone": "RepVGG_A0", "neck": "CustomCSPPAN", "yolo_head": "PPYOLOEHead", "post_process": None},
    "RepVGG_A0": {"return_idx": [1, 2, 3]},
    "CustomCSPPAN": {
        "out_channels": [768, 384, 192],
        "stage_num": 1,
        "block_num": 3,
        "act": "swish",
        "spp": True,
    },
    "PPYOLOEHead": {
        "fpn_strides": [32, 16, 8],
        "grid_cell_scale": 5.0,
        "grid_cell_offset": 0.5,
        "static_assigner_epoch": 3,
        "use_varifocal_loss": True,
        "loss_weight": {"class": 1.0, "iou": 2.5, "dfl": 0.5},
        **_ASSIGNERS,
        "nms": _nms(0.01, 0.7),
    },
}

YOLOX: Config = {
    "norm_type": "bn",
    "act": "silu",
    "depth_mult": 0.33,
    "width_mult": 0.375,
    "YOLOX": {
        "backbone": "FasterNet_T0",
        "neck": "YOLOCSPPAN",
        "head": "YOLOXHead",
        "input_size": _SIZE,
        "size_stride": 32,
        "size_range": [SHAPES.size // 32] * 2,
    },
    "FasterNet_T0": {"return_idx": [1, 2, 3]},
    "YOLOCSPPAN": {"depthwise": False},
    "YOLOXHead": {
        "l1_epoch": 20,
        "depthwise": False,
        "loss_weight": {"cls": 1.0, "obj": 1.0, "iou": 5.0, "l1": 1.0},
        "assigner": {"name": "SimOTAAssigner", "candidate_topk": 10, "use_vfl": False},
        "nms": _nms(0.01, 0.65),
    },
}

#: Three for each stride, px; the shapes measure 15 to 40.
_ANCHORS: Config = {
    "anchors": [[size, size] for size in (14, 17, 20, 22, 25, 28, 31, 35, 39)],
    "anchor_masks": [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
    "stride": [8, 16, 32],
}

YOLOV5: Config = {
    "norm_type": "bn",
    "depth_mult": 0.33,
    "width_mult": 0.25,
    "YOLOv5": {"backbone": "RepVGG_A0", "neck": "CustomCSPPAN", "yolo_head": "YOLOv5Head", "post_process": None},
    "RepVGG_A0": {"return_idx": [1, 2, 3]},
    "CustomCSPPAN": PPYOLOE["CustomCSPPAN"],
    # this neck's first map is the smallest
    "YOLOv5Head": {
        "anchors": _ANCHORS["anchors"],
        "anchor_masks": _ANCHORS["anchor_masks"][::-1],
        "stride": [32, 16, 8],
        "loss": "YOLOv5Loss",
        "nms": _nms(0.01, 0.65),
    },
    "YOLOv5Loss": {
        "downsample_ratios": [32, 16, 8],
        "balance": [0.4, 1.0, 4.0],
        "box_weight": 0.2,
        "obj_weight": 1.0,
        "cls_weght": 0.5,
    },
}

YOLOV7: Config = {
    "norm_type": "bn",
    "act": "silu",
    "arch": "tiny",
    "use_aux": False,
    "use_implicit": False,
    "YOLOv7": {"backbone": "MobileOne_S0", "neck": "ELANFPN", "yolo_head": "YOLOv7Head", "post_process": None},
    "MobileOne_S0": {"return_idx": [1, 2, 3]},
    "ELANFPN": {"depthwise": False},
    "YOLOv7Head": {**_ANCHORS, "loss": "YOLOv7Loss", "nms": _nms(0.01, 0.65)},
    "YOLOv7Loss": {
        "downsample_ratios": [8, 16, 32],
        "balance": [4.0, 1.0, 0.4],
        "box_weight": 0.05,
        "obj_weight": 1.0,
        "cls_weght": 0.5,
    },
}

YOLOV8: Config = {
    "norm_type": "bn",
    "act": "silu",
    "depth_mult": 0.33,
    "YOLOv8": {"backbone": "FasterNet_T0", "neck": "YOLOv8CSPPAN", "yolo_head": "YOLOv8Head", "post_process": None},
    "FasterNet_T0": {"return_idx": [1, 2, 3]},
    "YOLOv8CSPPAN": {"depthwise": False},
    "YOLOv8Head": {
        "fpn_strides": [8, 16, 32],
        "loss_weight": {"class": 0.5, "iou": 7.5, "dfl": 1.5},
        "assigner": {"name": "TaskAlignedAssigner", "topk": 10, "alpha": 0.5, "beta": 6.0},
        "nms": _nms(0.01, 0.65),
    },
}


def _detection_entry(
    name: str, title: str, backbone: str, architecture: str, epochs: int, learning_rate: float, sections: Config
) -> tuple[str, tuple[str, Config]]:
    host = "PaddleYOLO" if architecture in _OF_PADDLEYOLO else "PaddleDetection"
    seen = _DETECTION_RESULTS[name]
    return f"detection/{name}.yml", (
        _DETECTION_HEADER.format(name=name, title=title, backbone=backbone, host=host, seen=seen),
        _detection_config(name, architecture, epochs, learning_rate, sections),
    )


#: file → header and configuration.
DETECTION: dict[str, tuple[str, Config]] = dict(
    [
        _detection_entry("picodet_mobileone_s0", "PicoDet", "MobileOne_S0", "PicoDet", 30, 0.002, PICODET),
        _detection_entry("ppyoloe_repvgg_a0", "PP-YOLOE", "RepVGG_A0", "YOLOv3", 20, 0.001, PPYOLOE),
        _detection_entry("yolox_fasternet_t0", "YOLOX", "FasterNet_T0", "YOLOX", 30, 0.001, YOLOX),
        _detection_entry("yolov5_repvgg_a0", "YOLOv5", "RepVGG_A0", "YOLOv5", 18, 0.002, YOLOV5),
        _detection_entry("yolov7_mobileone_s0", "YOLOv7", "MobileOne_S0", "YOLOv7", 30, 0.002, YOLOV7),
        _detection_entry("yolov8_fasternet_t0", "YOLOv8", "FasterNet_T0", "YOLOv8", 30, 0.001, YOLOV8),
    ]
)


_SEGMENTATION_HEADER = """{title} on {backbone}, on coloured shapes at 96 px. Needs a checkout of PaddleSeg (develop).
  python tools/make_shapes_dataset.py
  python -m ppcls_ext PATH/tools/train.py --config configs/segmentation/{name}.yml --do_eval --save_dir output/{name}
  python -m ppcls_ext PATH/tools/export.py --config configs/segmentation/{name}.yml --input_shape 1 3 96 96 \\
      --model_path output/{name}/best_model/model.pdparams --save_dir output/{name}/inference
{seen}
Other data: dataset_root and the lists, num_classes (the background counts), crop_size, iters.
"""

#: What came out of benchmarks/downstream.py; minutes are one processor core's.
_SEGMENTATION_RESULTS = {
    "pp_liteseg_mobileone_s0": "Run: mIoU 0.768 after 6.3 minutes on one core; export and ONNX.",
    "deeplabv3p_repvgg_a0": "Run: mIoU 0.946 after 5.1 minutes on one core; export and ONNX.",
    "fcn_fasternet_t0": "Run: mIoU 0.915 after 0.9 minutes on one core; export and ONNX.",
}


def _segmentation_config(model: Config, losses: int, iterations: int, learning_rate: float) -> Config:
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


def _segmentation_entry(name: str, title: str, backbone: str, config: Config) -> tuple[str, tuple[str, Config]]:
    return f"segmentation/{name}.yml", (
        _SEGMENTATION_HEADER.format(name=name, title=title, backbone=backbone, seen=_SEGMENTATION_RESULTS[name]),
        config,
    )


#: file → header and configuration.
SEGMENTATION: dict[str, tuple[str, Config]] = dict(
    [
        _segmentation_entry(
            "pp_liteseg_mobileone_s0", "PP-LiteSeg", "MobileOne_S0", _segmentation_config(PP_LITESEG, 3, 480, 0.004)
        ),
        _segmentation_entry(
            "deeplabv3p_repvgg_a0", "DeepLabV3+", "RepVGG_A0", _segmentation_config(DEEPLABV3P, 1, 480, 0.001)
        ),
        _segmentation_entry("fcn_fasternet_t0", "FCN", "FasterNet_T0", _segmentation_config(FCN, 1, 960, 0.004)),
    ]
)


def config_files() -> dict[str, str]:
    """Path below configs/ → text."""
    downstream = {**DETECTION, **SEGMENTATION}
    return {
        **{name: render(recipe) for name, recipe in RECIPES.items()},
        **{name: render_sections(header, config) for name, (header, config) in downstream.items()},
    }
