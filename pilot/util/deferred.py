"""Puts off importing a package that a library imports and hardly ever uses, until somebody really wants it.

requests imports ``charset_normalizer`` in order to guess the encoding of texts that do not name theirs. The pilot
decodes answers itself and never needs that: 3 MB of memory and 7 ms of CPU for nothing in every pilot on a node.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """Stands in for a package; the first attribute that is not set here brings the real one."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        for key, value in self.__dict__.items():
            real.__dict__.setdefault(key, value)  # submodules that were imported meanwhile
        self.__dict__.update(real.__dict__)
        return getattr(real, name)


def defer_import(name: str, version: str) -> None:
    """Let ``import name`` give a stand-in that loads the real module on first use of anything but ``__version__``.

    Args:
        name: a top-level package, not one whose submodules need names of it while they are loaded; nothing happens
            when it is loaded already, or not installed.
        version: its ``__version__`` until it is loaded: one that the importing library accepts.
    """
    spec = None if name in sys.modules else PathFinder.find_spec(name)
    if spec is not None:
        module = _Deferred(name)
        # the import machinery looks at __path__, too: whoever imports a submodule gets that
        module.__dict__.update(__version__=version, __path__=list(spec.submodule_search_locations or ()))
        sys.modules[name] = module
