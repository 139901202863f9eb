"""Prints what pip has to install for the extras named: the dependencies in pyproject.toml without the project itself.

The virtual environments hold the dependencies only, and every command runs the checkout, as a worker node does.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.9 and 3.10: pip, which every virtual environment has, brings the same parser
    from pip._vendor import tomli as tomllib


def requirements(extras: list[str]) -> list[str]:
    """Return the core dependencies and those of ``extras``, sorted; a word with a version is a requirement itself."""
    path = Path(__file__).resolve().parent.parent / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    found = set(project["dependencies"])
    for extra in extras:
        found.update([extra] if ">=" in extra else project["optional-dependencies"][extra])
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
