"""Changes to foreign code: all of them go through `patch` and `patched` below hosts/, and are few."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "ppcls_ext"

#: Calls of `patch` and `patched` by file, each of which changes one attribute of a host.
PATCHES = {
    "hosts/dense/adaptations.py": 5,
    "hosts/dense/proof.py": 1,
    "hosts/paddleclas/adaptations.py": 12,
    "hosts/paddleclas/image_lists.py": 3,
    "hosts/paddleclas/image_operators.py": 3,
    "hosts/paddleclas/log_file.py": 1,
    "hosts/paddleclas/optimizers.py": 4,
    "hosts/paddleclas/registry.py": 1,
    "hosts/paddleclas/safe_eval.py": 1,
    "hosts/paddleclas/safe_pickle.py": 1,
}
MOST = 38
#: The only file that may set attributes of anything.
SETTER = "hosts/adaptation.py"

#: Attributes that are set elsewhere on another object than `self`, and why this changes no foreign code.
EXCEPTIONS = {
    **dict.fromkeys(
        (
            ("commands/host_script.py", "sys.argv"),
            ("commands/outcome.py", "logger.propagate"),
            ("commands/predict.py", "parser.usage"),
            ("commands/predict.py", "args.model"),
            ("commands/predict.py", "args.images"),
            ("data/class_folders.py", "bar.total"),
            ("commands/make_lists.py", "bar.total"),
            ("training/terminal.py", "handler.stream"),
        ),
        "the command line, the log and the bars of this program",
    ),
    **dict.fromkeys(
        (
            ("predict/evidence.py", "value.type.tensor_type.shape.dim[0].dim_param"),
            ("predict/onnx_file.py", "options.log_severity_level"),
            ("predict/onnx_file.py", "options.intra_op_num_threads"),
            ("predict/onnx_file.py", "options.optimized_model_filepath"),
            ("predict/runtimes.py", "self.net.opt.num_threads"),
            ("predict/runtimes.py", "self.net.opt.use_fp16_packed"),
            ("predict/runtimes.py", "self.net.opt.use_fp16_storage"),
            ("predict/runtimes.py", "self.net.opt.use_fp16_arithmetic"),
            ("predict/runtimes.py", "self.net.opt.use_bf16_storage"),
            ("onednn/library.py", "functions.dnnl_version.restype"),
            ("onednn/library.py", "functions.dnnl_primitive_desc_query_md.restype"),
            ("onednn/library.py", "functions.dnnl_memory_desc_get_size.restype"),
            ("onednn/library.py", "self.set_pointer.argtypes"),
            ("onednn/library.py", "self.execute.argtypes"),
            ("onednn/library.py", "self.multiply.argtypes"),
            ("weights/bounded.py", "array.flags.writeable"),
        ),
        "the settings of an object that was made here, as its library documents them",
    ),
    **dict.fromkeys(
        (
            ("hosts/dense/maps.py", "parameter.stop_gradient"),
            ("hosts/dense/maps.py", "norm._use_global_stats"),
            ("hosts/dense/maps.py", "norm.weight.stop_gradient"),
            ("hosts/dense/maps.py", "norm.bias.stop_gradient"),
            ("models/standalone.py", "layer.res_dict"),
            ("models/standalone.py", "layer.res_name"),
            ("reparam/reparameterizable.py", "conv.training"),
            ("reparam/reparameterizable.py", "setattr(self, self.fused_name, conv)"),
            ("reparam/reparameterizable.py", "delattr(self, name)"),
        ),
        "layers of a model of ours",
    ),
}
PENDING = {
    ("commands/host_script.py", "ppcls.utils.config.get_config"),
    ("commands/host_script.py", "ppcls.utils.get_config"),
    ("commands/host_script.py", "ppcls.engine.engine.Engine"),
}
#: Files that set attributes of objects of this project's own classes.
OWN = {
    "doctor.py",
    "export/bench_files.py",
    "export/comparison.py",
    "export/simplify.py",
    "hosts/paddleclas/optimizers.py",
    "training/progressive.py",
    "export/graph.py",
    "export/statistics.py",
    "export/qdq.py",
    "models/factory.py",
    "onednn/arena.py",
    "onednn/find.py",
    "onednn/maps.py",
    "training/host_log.py",
    "training/loop.py",
    "training/reports.py",
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def attributes_set(tree: ast.Module) -> Iterator[str]:
    """The attributes that a module sets or deletes on other objects than `self` and `cls`, and calls that may do so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
            if not isinstance(node.value, ast.Name) or node.value.id not in ("self", "cls"):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "object.__setattr__"):
            yield ast.unparse(node)


def test_nothing_else_sets_attributes_of_foreign_objects():
    files = [(file, tree) for file, tree in modules() if file != SETTER and file not in OWN]
    found = {(file, target) for file, tree in files for target in attributes_set(tree)}
    assert found - set(EXCEPTIONS) - PENDING == set(), "use patch or patched below hosts/, or say why not"


def test_the_patch_points_are_counted():
    found = Counter(
        file
        for file, tree in modules()
        if file != SETTER
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("patch", "patched")
    )
    assert found == PATCHES
    assert all(file.startswith("hosts/") for file in found)
    assert sum(found.values()) <= MOST


def test_versions_of_hosts_are_recognised_in_one_place():
    users = {file for file, tree in modules() for node in ast.walk(tree) if getattr(node, "attr", "") == "getsource"}
    assert users == {SETTER}, "use `mentions`"
