"""The version of the pilot, read from PILOTVERSION: the only place where it stands."""

from __future__ import annotations

from pathlib import Path


def _read_version() -> str:
    package = Path(__file__).parent
    # Beside pilot.py in a checkout or tarball; inside the package once installed (setup.py copies it there).
    for candidate in (package.parent / "PILOTVERSION", package / "PILOTVERSION"):
        try:
            return candidate.read_text(encoding="ascii").strip()
        except OSError:
            continue
    return "unknown"


PILOT_VERSION = _read_version()
"""``<release>.<version>.<revision>.<build>``, e.g. ``2.13.0.1``."""
