"""What a fresh Python says about adaptations and registration: both stay in a process once done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import json
import sys
import ppcls_ext
from ppcls_ext.hosts.paddleclas import adaptations
from ppcls_ext.hosts.paddleclas.registry import replaced
from ppcls_ext.hosts.paddleclas.locate import theseus_layer
theseus_layer()().stop_after("nothing")  # warns, through a logger that PaddleClas leaves at None
import ppcls.arch
from ppcls.arch.utils import get_architectures

own = {name: getattr(ppcls.arch, name, None) for name in ppcls_ext.list_models()}
ppcls_ext.register()
first = dict(replaced)
ppcls_ext.register()
print("registered", file=sys.stderr)
from ppcls_ext.models.factories import FACTORIES

modules = ppcls.arch, ppcls.arch.backbone
models = [
    ppcls.arch.build_model({"Arch": {"name": "MobileOne_S0", "class_num": 3}}),
    ppcls.arch.build_model({"Arch": {"name": "RepVGG_A0", "class_num": 3}}),
    ppcls.arch.build_model({"Arch": {"name": "RepVGG_A0", "class_num": 4}}),
    replaced["RepVGG_A0"](class_num=3),
    ppcls.arch.RecModel(Backbone={"name": "MobileOne_S0"}).backbone,
]
print(json.dumps({
    "adaptations": [adaptations.apply(), adaptations.apply()],
    "registered": all(getattr(module, name) is FACTORIES[name] for name in FACTORIES for module in modules),
    "listed": set(FACTORIES) <= set(get_architectures()),
    "replaced": sorted(replaced),
    "theirs": sorted(name for name, factory in own.items() if factory is not None),
    "originals": all(replaced[name] is own[name] for name in replaced) and replaced == first,
    "models": [type(model).__module__ for model in models],
}))
"""


class Fresh(NamedTuple):
    says: dict
    stderr: str


@pytest.fixture(scope="session")
def fresh() -> Fresh:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return Fresh(json.loads(result.stdout.splitlines()[-1]), result.stderr)
