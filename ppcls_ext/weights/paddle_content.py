"""All that a file of `paddle.save` holds, such as an optimizer's state, read without running any of it."""

from __future__ import annotations

import os

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.arrays import Tensor
from ppcls_ext.weights.bounded import BoundedFile
from ppcls_ext.weights.files import opened
from ppcls_ext.weights.paddle_file import read_paddle

MAX_DEPTH = 32
"""Containers within containers. An optimizer's state has 3."""
ITEM = 64
"""Bytes that an item of a container is reckoned at."""


def read_paddle_file(path: str | os.PathLike) -> object:
    """Returns all that a file of `paddle.save` holds, without running any of it.

    Returns:
        Dicts, lists and tuples of numbers, texts and arrays (read-only; bfloat16 as float32).

    Raises:
        PpclsExtError: it cannot be read, is damaged, holds anything else, or unfolds to far more than its size.
    """
    with opened(path) as file:
        return with_arrays(read_paddle(file), file)


def with_arrays(content: object, file: BoundedFile, depth: int = 0) -> object:
    """Returns `content` with its tensors read.

    A pickle may hold one list many times over, and such lists in lists: a few bytes that whoever walks through them
    finds endless. So each occurrence is paid from the file's allowance.

    Raises:
        PpclsExtError: the allowance is used up, or containers are nested more than `MAX_DEPTH` deep.
    """
    file.spend(ITEM)
    if depth > MAX_DEPTH:
        raise PpclsExtError(f"refused: it is nested more than {MAX_DEPTH} deep, as no checkpoint is")
    if isinstance(content, Tensor):
        array = content.read(file)
        file.spend(array.nbytes)
        return array
    if isinstance(content, np.ndarray):
        raise ValueError("an array stands where none can be")
    if isinstance(content, dict):
        return {name: with_arrays(value, file, depth + 1) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(with_arrays(value, file, depth + 1) for value in content)
    return content
