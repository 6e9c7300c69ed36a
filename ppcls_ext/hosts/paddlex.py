"""PaddleX, which PaddleClas recommends for deployment: the names of the networks in its registry."""

from __future__ import annotations

import importlib

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.models.table import MODELS
from ppcls_ext.packages import missing
from ppcls_ext.predict.inference_yml import paddlex_name

ENGINES = ("paddle_static", "hpi", "onnxruntime")
_PACKAGE = "paddlex.inference.models"


def register_in_paddlex() -> None:
    """Binds the names to PaddleX's own classifier; calling it again changes nothing.

    PaddleX opens any folder with an inference.yml, but only of models whose names are bound; those of FasterNet are.

    Raises:
        PpclsExtError: PaddleX is missing, or keeps its bindings elsewhere than 3.7 does.
    """
    try:
        bindings = importlib.import_module(f"{_PACKAGE}.bindings")
        predictor = importlib.import_module(f"{_PACKAGE}.image_classification").ClasRunnerPredictor
        known, bind = bindings.try_get_supported_engines, bindings.register_predictor_binding_map
    except ModuleNotFoundError as error:
        raise PpclsExtError(missing(str(error.name).split(".")[0])) from error
    except (ImportError, AttributeError) as error:
        raise PpclsExtError(
            f"this PaddleX has no bindings as 3.7 has ({one_line(error)}): pip install 'ppcls-ext[paddlex]'"
        ) from error
    names = [name for name in map(paddlex_name, MODELS) if not known(name)]
    bind(predictor, dict.fromkeys(ENGINES, names))
