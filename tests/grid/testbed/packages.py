"""Where the installed things are: the virtual environments of the servers (tools/grid_packages.sh makes them)."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.grid.testbed.service import MissingService

ROOT = Path(__file__).resolve().parents[3]


def environment_of(name: str) -> Path:
    """The interpreter of ``.venv-NAME``, beside the sources or beside the virtual environment that runs us."""
    for place in (ROOT, Path(sys.prefix).parent):
        python = place / f".venv-{name}" / "bin" / "python"
        if python.exists():
            return python
    raise MissingService(f"the virtual environment '.venv-{name}' is not there: 'make grid-packages' makes it")
