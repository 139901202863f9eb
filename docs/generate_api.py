"""Makes the page of the public modules: what plug-ins, tests and other programs may rely on."""

from __future__ import annotations

from importlib.util import find_spec

_GROUPS = {
    "Plug-ins": ("pilot.user.base", "pilot.copytool.base", "pilot.resource.base"),
    "For other programs": (
        "pilot.api.data", "pilot.util.auxiliary", "pilot.common.errorcodes", "pilot.common.exception",
        "pilot.common.errors"),
    "Jobs and their description": (
        "pilot.info.job", "pilot.info.filespec", "pilot.info.jobparser", "pilot.info.queuedata", "pilot.info.storage"),
    "The road": ("pilot.control.lifecycle", "pilot.control.shutdown", "pilot.store.pilotdb", "pilot.util.cancel"),
    "The server": ("pilot.panda.server", "pilot.panda.answers"),
    "The sandbox": ("sandbox.api", "sandbox.faults"),
}


def page() -> str:
    """Return the page in reStructuredText; modules that this version does not have are left out."""
    lines = ["Modules", "=======", "", "Public classes and functions of the modules that others build on.", ""]
    for title, modules in _GROUPS.items():
        lines += [title, "-" * len(title), ""]
        for module in modules:
            if _exists(module):
                lines += [module, "~" * len(module), ""]
                lines += [f".. automodule:: {module}", "   :members:", "   :no-index:", ""]
    return "\n".join(lines)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False
