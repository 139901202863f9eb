"""Jobs, files, queues and storage endpoints; the names that scripts and Harvester import, loaded on first use.

``infosys`` is the service of a process that has only one queue; ``infosys.init(<queue>)`` loads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilot.info.filespec import FileSpec
    from pilot.info.infoservice import InfoService, JobInfoProvider
    from pilot.info.job import Job as JobData
    from pilot.info.queuedata import QueueData
    from pilot.info.storage import StorageData

    infosys: InfoService

__all__ = ["FileSpec", "InfoService", "JobData", "JobInfoProvider", "QueueData", "StorageData", "infosys"]

_HOMES = {
    "FileSpec": ("pilot.info.filespec", "FileSpec"),
    "InfoService": ("pilot.info.infoservice", "InfoService"),
    "JobData": ("pilot.info.job", "Job"),
    "JobInfoProvider": ("pilot.info.infoservice", "JobInfoProvider"),
    "QueueData": ("pilot.info.queuedata", "QueueData"),
    "StorageData": ("pilot.info.storage", "StorageData"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "infosys":
        from pilot.info.infoservice import InfoService

        value: Any = InfoService()
    elif name in _HOMES:
        from importlib import import_module

        module, attribute = _HOMES[name]
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
