"""Puts off importing a package that a library imports and hardly ever uses, until somebody really wants it.

* requests imports ``charset_normalizer`` in order to guess the encoding of texts that do not name theirs. The pilot
  decodes answers itself and never needs that: 3 MB of memory and 7 ms of CPU for nothing in every pilot on a node.
* urllib3 imports ``importlib.metadata`` in order to ask for the version of an HTTP/2 library: 2 MB and 8 ms.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Callable, Sequence


class _Deferred(ModuleType):
    """Stands in for a package; the first attribute that is not set here brings the real one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.load(), name)

    def load(self) -> ModuleType:
        """Import the real package, once, and become like it."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        for key, value in self.__dict__.items():
            real.__dict__.setdefault(key, value)  # submodules that were imported meanwhile
        self.__dict__.update(real.__dict__)
        return real


def defer_import(name: str, version: str = "", functions: Sequence[str] = ()) -> None:
    """Let ``import name`` give a stand-in that loads the real module on first use of anything but ``__version__``.

    Args:
        name: a package, not one whose submodules need names of it while they are loaded; nothing happens when it is
            loaded already, or not installed.
        version: its ``__version__`` until it is loaded: one that the importing library accepts.
        functions: of it that ``from name import function`` may take without loading it; the first call does.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is None:
        return
    module = _Deferred(name)
    # the import machinery looks at __path__, too: whoever imports a submodule gets that
    module.__dict__.update(__path__=list(spec.submodule_search_locations or ()))
    if version:
        module.__dict__["__version__"] = version
    for function in functions:
        module.__dict__[function] = _first_call(module, function)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _first_call(module: _Deferred, name: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        return getattr(module.load(), name)(*args, **options)

    return call
