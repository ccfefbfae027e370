"""numba's decorators with types, so that what is compiled is checked like all else.

Only entry points are kept on disk (``__pycache__``, or the user's cache folder where that cannot be written): what
they call is compiled into them.

Nothing compiled here makes or keeps an array, so references are not counted (``_nrt=False``): counting them at each
call took two thirds of the kernel's time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

_njit: Callable[..., Callable[[Any], Any]] = numba.njit  # its types leave _nrt out


def entry_point(function: Function) -> Function:
    """Called from Python: compiled on its first call and kept on disk."""
    compiled: Function = _njit(cache=True, error_model="numpy", _nrt=False)(function)
    return compiled


def inner(function: Function) -> Function:
    """Called from compiled code only, and made part of it: a call would hand over all arrays one by one."""
    compiled: Function = _njit(error_model="numpy", _nrt=False, forceinline=True)(function)
    return compiled


def called(function: Function) -> Function:
    """Called from compiled code only, from several places: there once."""
    compiled: Function = _njit(error_model="numpy", _nrt=False)(function)
    return compiled


def fingerprint(folder: Path) -> str:
    """Of all Python sources below ``folder``; another one if any of them changes."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def times_compiled(function: Callable[..., Any]) -> int:
    """How often this process compiled an entry point, rather than reading it from the disk."""
    stats = function.stats  # type: ignore[attr-defined]  # numba's dispatcher
    return sum(stats.cache_misses.values())
