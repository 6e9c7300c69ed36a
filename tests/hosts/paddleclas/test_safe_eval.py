"""Where PaddleClas runs text or unpickles files: each place is known, and so is what stands before it."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ppcls_ext.config import host_classes
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.locate import activate, engine_class
from ppcls_ext.hosts.paddleclas.safe_eval import Evaluator, guard

NAMES, KEYS = "a row of NAMES", "a row of KEYS"
FIXED = "one of a few names that PaddleClas itself gives"
ASIDE = "no part of training, evaluating, inferring or exporting"
SAFE_PICKLE = "hosts.paddleclas.safe_pickle reads in the place of pickle"

#: (file, call) of PaddleClas 2.4.2, 2.5.2 and develop → what makes it harmless.
PLACES = {
    "ppcls/arch/__init__.py": {
        "eval(backbone_name)": NAMES,
        "eval(model_name)": NAMES,
        "getattr(mod, model_type)": NAMES,
        "importlib.import_module(__name__)": FIXED,
    },
    "ppcls/arch/gears/__init__.py": {"eval(module_name)": NAMES},
    "ppcls/arch/utils.py": {
        "getattr(paddle.nn.initializer, initializer_name)": NAMES,
        "getattr(paddle.regularizer, regularizer_name)": NAMES,
    },
    "ppcls/arch/backbone/base/theseus_layer.py": {
        "getattr(parent_layer, target_layer_name, None)": "a layer of the model",
        "getattr(sub_layer_parent, sub_layer_name)": "a layer of the model",
    },
    "ppcls/arch/backbone/legendary_models/pp_hgnet_v2.py": {"eval(block_type)": FIXED},
    "ppcls/arch/backbone/legendary_models/pp_lcnet.py": {"eval(self.lr_mult_list)": "LISTS"},
    "ppcls/arch/backbone/legendary_models/resnet.py": {"globals()[self.block_type]": FIXED},
    "ppcls/arch/backbone/model_zoo/cae.py": {
        "getattr(model, linear_keyword)": FIXED,
        "paddle.load(local_weight_path + '.pdparams')": SAFE_PICKLE,
        "paddle.load(pretrained + '.pdparams')": SAFE_PICKLE,
    },
    "ppcls/arch/backbone/model_zoo/foundation_vit.py": {
        "eval(f'_{self.model_name}_diff')": FIXED,
        "eval(norm_layer)": "DOTTED_NAMES",
    },
    "ppcls/arch/backbone/model_zoo/svtrnet.py": {
        "eval(act)": "DOTTED_NAMES",
        "eval(block_unit)": "DOTTED_NAMES",
        "eval(norm_layer)": "DOTTED_NAMES",
        "eval(sub_norm)": "DOTTED_NAMES",
    },
    "ppcls/arch/backbone/model_zoo/vision_transformer.py": {"eval(norm_layer)": "DOTTED_NAMES"},
    "ppcls/data/__init__.py": {
        "eval(dataset_name)": NAMES,
        "eval(sampler_name)": NAMES,
        "getattr(preprocess, op_name)": KEYS,
    },
    "ppcls/data/dataloader/common_dataset.py": {"getattr(preprocess, op_name)": KEYS},
    "ppcls/data/dataloader/dali.py": {
        "eval(fused_op_name)": FIXED,
        "eval(op_name)": "one of those that convert_cfg_to_dali knows, which raises for others",
        "eval(scale)": "NUMBERS",
    },
    "ppcls/data/dataloader/face_dataset.py": {"np.load(os.path.join(path, '{}_list.npy'.format(name)))": "no objects"},
    "ppcls/data/dataloader/mix_dataset.py": {"getattr(dataloader, dataset_name)": NAMES},
    "ppcls/data/dataloader/mix_sampler.py": {"getattr(dataloader, sample_method)": NAMES},
    "ppcls/data/postprocess/__init__.py": {
        "eval(func)": NAMES,
        "getattr(mod, model_name)": NAMES,
        "importlib.import_module(__name__)": FIXED,
    },
    "ppcls/data/preprocess/batch_ops/batch_operators.py": {"eval(op_name)": KEYS},
    "ppcls/data/preprocess/ops/operators.py": {"eval(scale)": "NUMBERS"},
    "ppcls/data/preprocess/ops/randaugment.py": {"eval(key)": KEYS},
    "ppcls/data/preprocess/ops/random_erasing.py": {
        "eval(EPSILON)": "NUMBERS",
        "eval(r1)": "NUMBERS",
        "eval(sh)": "NUMBERS",
        "eval(sl)": "NUMBERS",
    },
    "ppcls/engine/engine.py": {
        "getattr(evaluation, self.eval_mode + '_eval')": "one of three, asserted",
        "getattr(train_method, 'train_epoch_' + self.train_mode)": "the prefix leaves PaddleClas's own",
    },
    "ppcls/loss/__init__.py": {"eval(name)": KEYS},
    "ppcls/loss/distillationloss.py": {"eval(base_loss_name)": NAMES},
    "ppcls/metric/__init__.py": {"eval(metric_name)": KEYS},
    "ppcls/optimizer/__init__.py": {
        "getattr(learning_rate, lr_name)": NAMES,
        "getattr(model_list[i], optim_scope)": "a layer of the model",
        "getattr(optimizer, optim_name)": f"{NAMES}, and of KEYS",
        "getattr(paddle.regularizer, reg_name)": "the suffix Decay leaves two",
    },
    "ppcls/static/save_load.py": {
        "paddle.static.load(program, checkpoints, exe)": SAFE_PICKLE,
        "paddle.static.load_program_state(dst)": SAFE_PICKLE,
        "paddle.static.load_program_state(path)": SAFE_PICKLE,
    },
    "ppcls/utils/config.py": {
        "eval(v)": "configuration.overrides reads them; in other scripts evaluation.guard",
        "yaml.load(fopen, Loader=yaml.SafeLoader)": "makes no objects",
    },
    "ppcls/utils/feature_maps_visualization/resnet.py": {"globals()[self.block_type]": ASIDE},
    "ppcls/utils/save_load.py": {
        "paddle.load(checkpoints + '.ema.pdparams')": SAFE_PICKLE,
        "paddle.load(checkpoints + '.pdema')": SAFE_PICKLE,
        "paddle.load(checkpoints + '.pdopt')": SAFE_PICKLE,
        "paddle.load(checkpoints + '.pdparams')": SAFE_PICKLE,
        "paddle.load(checkpoints + '.pdstates')": SAFE_PICKLE,
        "paddle.load(path + '.pdparams')": SAFE_PICKLE,
        "paddle.load(pretrained_path)": SAFE_PICKLE,
    },
    "tools/search_strategy.py": {
        "subprocess.Popen(base_program)": ASIDE,
        "subprocess.Popen(program)": ASIDE,
    },
}

RUN = {"eval", "exec", "compile", "__import__"}
NAMESPACES = {"globals", "locals", "vars"}
CALLS = {"import_module", "run_path", "system", "popen", "Popen", "check_output", "check_call", "load_module"}
LOADERS = {"load", "loads", "Unpickler", "load_program_state", "unsafe_load", "full_load"}


def _is_place(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript):
        space = node.value
        return isinstance(space, ast.Call) and isinstance(space.func, ast.Name) and space.func.id in NAMESPACES
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Name):
        by_name = function.id == "getattr" and not isinstance(node.args[1], ast.Constant)
        return function.id in RUN or (by_name and ast.unparse(node.args[0]) != "self")
    if not isinstance(function, ast.Attribute):
        return False
    owner = ast.unparse(function.value)
    return (function.attr in CALLS and owner != "platform") or (function.attr in LOADERS and owner != "json")


def places(root: Path) -> set[tuple[str, str]]:
    """(file, call) of all that PaddleClas looks up by name, runs or unpickles."""
    return {
        (path.relative_to(root).as_posix(), ast.unparse(node))
        for path in [*(root / "ppcls").rglob("*.py"), *(root / "tools").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _is_place(node)
    }


def test_every_place_is_known():
    known = {(file, call) for file, calls in PLACES.items() for call in calls}
    found = places(activate(need_engine=True).path)
    assert found - known == set(), "new: see what stands before it, then add it"
    assert len(found) > 30


def test_a_new_place_is_found(tmp_path):
    (tmp_path / "ppcls" / "data").mkdir(parents=True)
    lines = ["x = eval(new)", "y = pickle.load(f)", "z = getattr(paddle, name)", "globals()[name]()", "os.system(c)"]
    (tmp_path / "ppcls" / "data" / "new.py").write_text("\n".join(lines))
    assert len(places(tmp_path)) == 5


def test_modules_that_are_named_exist(registered):
    for module in {*host_classes.NAMES.values(), *host_classes.KEYS.values()}:
        importlib.import_module(module)


def test_every_module_that_evaluates_is_guarded(registered):
    """The second line of defence: what no row of `host_classes` names finds no code to run either."""
    engine_class()
    guard()
    later = {"ppcls/data/dataloader/dali.py"}  # imported where Global.use_dali is set, and safe by itself
    for file, calls in PLACES.items():
        module = sys.modules.get(file[: -len(".py")].replace("/", ".").removesuffix(".__init__"))
        if module is not None and any(call.startswith("eval(") for call in calls):
            assert isinstance(module.eval, Evaluator), file
            assert module.eval.module is module
        elif any(call.startswith("eval(") for call in calls):
            assert file in later or not (activate().path / file).exists(), f"{file} is not imported"


def test_what_a_star_import_brings_is_replaced(registered, monkeypatch):
    """Else a module that is imported later would look names up in another one."""
    import ppcls.loss

    later = ModuleType("ppcls.later")
    later.eval = Evaluator(ppcls.loss)
    monkeypatch.setitem(sys.modules, "ppcls.later", later)
    guard()
    assert later.eval.module is later


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('executed')",
        "open",
        "__import__",
        "eval",
        "copy",
        "copy.copy",
        "paddle.save",
        "build_loss",
        "CELoss.__init__",
        "CELoss.__class__",
        "(lambda: 0)()",
        "[open]",
        "1+" * 6000 + "1",
        "-" * 9000 + "1",
        "(" * 9000,
        "",
        None,
    ],
)
def test_evaluator_refuses(registered, text, tmp_path, monkeypatch):
    import ppcls.loss

    monkeypatch.chdir(tmp_path)
    with pytest.raises(PpclsExtError, match=r"would evaluate .* in ppcls\.loss"):
        Evaluator(ppcls.loss)(text)
    assert not any(tmp_path.iterdir())


def test_evaluator_gives_what_python_would(registered):
    import ppcls.loss

    evaluator = Evaluator(ppcls.loss)
    assert evaluator("CELoss") is ppcls.loss.CELoss
    assert evaluator("nn.LayerNorm") is ppcls.loss.nn.LayerNorm
    for text in ("1.0/255.0", "[1.0, 2]", "True", "None", "'text'", "-3", "{'a': (1, 2)}"):
        assert evaluator(text) == eval(text)
