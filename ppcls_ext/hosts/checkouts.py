"""Finding a host's checkout, and refusing versions that do not train on today's Paddle."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.errors import PpclsExtError


class Host(NamedTuple):
    """A program that our networks work in as backbones.

    Attributes:
        title: its name.
        package: the name that it is imported under.
        home: name of the environment variable for a checkout.
        wheel: name of its distribution in package indexes.
        last_wheel: version of the newest wheel, which does not train on Paddle 3.
        fails: the file of that wheel that fails.
        only_here: a file of the package that tells it from another host's of the same name; None for none.
    """

    title: str
    package: str
    home: str
    wheel: str
    last_wheel: str
    fails: str
    only_here: str | None = None


PADDLEDET = Host(
    "PaddleDetection", "ppdet", "PADDLEDET_HOME", "paddledet", "2.6.0", "ppdet/modeling/assigners/atss_assigner.py"
)
PADDLEYOLO = PADDLEDET._replace(
    title="PaddleYOLO", home="PADDLEYOLO_HOME", only_here="modeling/architectures/yolov5.py"
)
PADDLESEG = Host(
    "PaddleSeg", "paddleseg", "PADDLESEG_HOME", "paddleseg", "2.8.0", "paddleseg/models/losses/cross_entropy_loss.py"
)


def of_script(script: Path) -> Host | None:
    """Returns the host whose checkout contains a script such as tools/train.py."""
    root = script.parents[1]
    hosts = (PADDLEYOLO, PADDLEDET, PADDLESEG)
    return next((host for host in hosts if (root / host.package / (host.only_here or "__init__.py")).is_file()), None)


def activate(host: Host, root: Path | None = None) -> Path:
    """Makes the host importable and returns the folder that holds its package.

    Args:
        host: the host.
        root: a checkout; by default the package that is imported already, the checkout that `host.home` names, or an
            importable package.

    Raises:
        PpclsExtError: there is none, or it is a wheel that does not train on Paddle 3.
    """
    imported = sys.modules.get(host.package)
    home = os.environ.get(host.home)
    if imported is not None:
        found = Path(next(iter(imported.__path__))).parent
        if root is not None and root.resolve() != found.resolve():
            raise PpclsExtError(f"{host.package} is already imported from {found}: it cannot come from {root} as well")
    elif root is not None or home:
        found = root if root is not None else Path(home or "").expanduser()
        if not (found / host.package / "__init__.py").is_file():
            raise PpclsExtError(
                f"{host.home} is {found}, which is no {host.title}: expected a checkout, a folder that holds "
                f"{host.package}; correct it or unset it"
            )
        if str(found) not in sys.path:
            sys.path.insert(0, str(found))
            importlib.invalidate_caches()
    else:
        spec = importlib.util.find_spec(host.package)
        if spec is None or not spec.submodule_search_locations:
            raise PpclsExtError(
                f"no {host.title}: no module {host.package} can be imported and {host.home} is not set; "
                f"set {host.home} to a git checkout (develop)"
            )
        found = Path(next(iter(spec.submodule_search_locations))).parent
    _refuse_wheel(host, found.resolve())
    return found


@contextmanager
def needs_told(host: Host, root: Path) -> Iterator[None]:
    """Turns the host's failing import of a package into an error that says where the host lists what it needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise PpclsExtError(
            f"{host.title} needs the module {error.name}, which is not installed: its packages are listed in "
            f"{root / 'requirements.txt'}"
        ) from error


def _refuse_wheel(host: Host, found: Path) -> None:
    try:
        installed = importlib.metadata.distribution(host.wheel)
    except importlib.metadata.PackageNotFoundError:
        return
    is_it = Path(str(installed.locate_file(host.package))).resolve() == found / host.package
    # develop calls itself 0.0.0
    numbers = [int(part) for part in installed.version.split(".")[:2] if part.isdigit()]
    if is_it and [0, 0] < numbers <= [int(part) for part in host.last_wheel.split(".")[:2]]:
        raise PpclsExtError(
            f"{host.title} {installed.version} at {found} is the wheel, which does not train on Paddle 3 "
            f"({host.fails} mixes types): set {host.home} to a git checkout (develop)"
        )
