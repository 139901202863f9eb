"""The process table, under the name that the checks use; the code is in ``pilot.util.procfs``."""

from __future__ import annotations

from pilot.util.procfs import (
    PAGE_BYTES,
    TICKS_PER_SECOND,
    ProcInfo,
    ProcTable,
    read_environ,
    read_process,
    same_process,
    scan,
)

__all__ = [
    "PAGE_BYTES",
    "TICKS_PER_SECOND",
    "ProcInfo",
    "ProcTable",
    "read_environ",
    "read_process",
    "same_process",
    "scan",
]
