"""``jobMetrics``: one line of ``name=value``, within the server's limit; whole pairs go, the least wanted first.

The order of the pairs stays what it was. What the server itself reads is the last to go, then what joins this job with
other records, then what people and analytics ask for most. Source: control and monitoring document 11, server document
6.6.
"""

from __future__ import annotations

LIMIT = 500
"""Bytes that the server keeps."""

PRIORITY = (
    "leak", "chi2", "coreCount", "outputZipName", "outputZipBucketID",  # read by the server
    "transferKey", "rucioTraceError",
    "actualCoreCount", "nEvents", "nEventsW", "workDirSize", "dbTime", "dbData", "resimevents", "hs06", "readbyterate",
    "nGPU", "GPU_name", "intersect", "eventnumber", "lsetup_time", "schedulerIP", "sessionIP",
)
"""Names, the most wanted first. Others come behind them, in their order."""

_RANK = {name: rank for rank, name in enumerate(PRIORITY)}


def fit_metrics(*parts: str, limit: int = LIMIT) -> str:
    """Return the pairs of all parts as one line of at most ``limit`` bytes; nothing in it is cut.

    Args:
        parts: texts of blank separated ``name=value``; a name that comes twice counts where it comes first.
        limit: bytes.
    """
    pairs: dict[str, str] = {}
    for found in " ".join(parts).split():
        word = "".join(char if char.isascii() and char.isprintable() else "?" for char in found)
        pairs.setdefault(word.partition("=")[0], word)
    room = limit + 1
    kept = set()
    for name in sorted(pairs, key=lambda name: _RANK.get(name, len(_RANK))):  # stable: others keep their order
        size = len(pairs[name]) + 1
        if size <= room:
            kept.add(name)
            room -= size
    return " ".join(word for name, word in pairs.items() if name in kept)
