"""PaddleX, which PaddleClas recommends for deployment: the names of the networks in its registry."""

from __future__ import annotations

import importlib

from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.models.table import MODELS
from ppcls_ext.packages import missing
from ppcls_ext.predict.inference_yml import paddlex_name

#: PaddleX's module and class for each task, and the engines it is bound for there.
PREDICTORS = {
    SINGLE_LABEL: ("image_classification", "ClasRunnerPredictor", ("paddle_static", "hpi", "onnxruntime")),
    MULTI_LABEL: ("image_multilabel_classification", "MLClasPredictor", ("paddle_static", "hpi")),
}
_PACKAGE = "paddlex.inference.models"


def register_in_paddlex() -> None:
    """Binds the names to PaddleX's own classifiers, of one label and of several; calling it again changes nothing.

    PaddleX opens any folder with an inference.yml, but only of models whose names are bound; those of FasterNet are.

    Raises:
        PpclsExtError: PaddleX is missing, or keeps its bindings elsewhere than 3.7 does.
    """
    try:
        bindings = importlib.import_module(f"{_PACKAGE}.bindings")
        predictors = {
            task: getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
            for task, (module, name, _) in PREDICTORS.items()
        }
        known, bind = bindings.try_get_supported_engines, bindings.register_predictor_binding_map
    except ModuleNotFoundError as error:
        raise PpclsExtError(missing(str(error.name).split(".")[0])) from error
    except (ImportError, AttributeError) as error:
        raise PpclsExtError(
            f"this PaddleX has no bindings as 3.7 has ({one_line(error)}): pip install 'ppcls-ext[paddlex]'"
        ) from error
    for task, (_, _, engines) in PREDICTORS.items():
        names = [name for name in (paddlex_name(model, task) for model in MODELS) if not known(name)]
        bind(predictors[task], dict.fromkeys(engines, names))
