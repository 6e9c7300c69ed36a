"""The names that any pickle may hold: containers, and settings that lie beside the weights."""

from __future__ import annotations


class Opaque:
    """Stands for every object that weights do not need; takes any argument, item or state and keeps none."""


OPAQUE = Opaque()


_HARMLESS = """
argparse.Namespace types.SimpleNamespace typing.Any builtins.bool builtins.complex builtins.dict builtins.float
builtins.frozenset builtins.int builtins.list builtins.long builtins.set builtins.str collections.Counter
datetime.date datetime.datetime datetime.timedelta datetime.timezone pathlib.Path pathlib.PosixPath
pathlib.WindowsPath pathlib.PurePosixPath pathlib.PureWindowsPath pathlib._local.Path pathlib._local.PosixPath
pathlib._local.WindowsPath addict.addict.Dict easydict.EasyDict yacs.config.CfgNode fvcore.common.config.CfgNode
mmcv.utils.config.ConfigDict mmengine.config.config.ConfigDict omegaconf.base.ContainerMetadata
omegaconf.base.Metadata omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig omegaconf.nodes.AnyNode
lightning_fabric.utilities.data.AttributeDict pytorch_lightning.utilities.parsing.AttributeDict
pytorch_lightning.callbacks.early_stopping.EarlyStopping
pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint
""".split()


def _dict(pairs: object = ()) -> dict:
    # Python 2 pickles an OrderedDict as a list of [key, value]
    if not isinstance(pairs, (list, tuple)):
        raise ValueError("a dict is made of something else than pairs")
    return {key: value for key, value in pairs if isinstance(key, str)}


def _empty_dict(*_arguments: object) -> dict:
    return {}


COMMON: dict[str, object] = {
    **dict.fromkeys(_HARMLESS, OPAQUE),
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _empty_dict,
}
"""The names known in every pickle: containers, and settings found in training checkpoints beside the weights."""
