"""Writes the table of copytools as Markdown, from the registry: ``generate_copytools.py [FILE]``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pilot.copytool.base import CopyTool, Features, ToolConfig
from pilot.copytool.registry import SUCCESSORS, aliases_of, load_tool, tool_names
from pilot.util.helper import HelperPool

_INTRODUCTION = """# Copytools

Made from `pilot/copytool/registry.py` and what each tool says of itself (`Features` in `pilot/copytool/base.py`). A
queue names its tools in `copytools` (with settings) and `acopytools` (per activity, in the order in which they are
tried); further names come from entry points `panda_pilot.copytool` or the setting `plugins.copytools`.

*Schemes* are those of URLs, the preferred first; the queue's `acopytools_schemas` wins. *Inputs* and *outputs* say
where a URL comes from: `replicas` are looked up in Rucio, `protocols` are those of the storage endpoint. Every tool
verifies inputs against size and checksum (adler32 or md5).

| tool | for | schemes | inputs | outputs | logs in with | besides | needs |
|---|---|---|---|---|---|---|---|
"""

_DEAD = """
## Names of the past

A queue that names one of these gets error 1323 with this advice, unless a plug-in has the name.

| name | use instead |
|---|---|
"""


class _Everything(HelperPool):
    """As if all client libraries were installed: the page is the same wherever it is made."""

    def missing(self, *_args: object) -> str:
        """Nothing is."""
        return ""


def tools() -> list[CopyTool]:
    """Return one instance of each built-in tool."""
    return [load_tool(name, ToolConfig(helpers=_Everything())) for name in tool_names()]


def _source(replicas: bool, protocols: bool) -> str:
    return "replicas" if replicas else "protocols" if protocols else "its own rules"


def _besides(features: Features) -> str:
    known = {
        "progress": features.reports_progress, "many files per call": features.bulk,
        "direct access": features.direct_access, "traces": features.traced,
        "other people's commands": features.third_party, "not abortable": not features.abortable,
    }
    return ", ".join(name for name, there in known.items() if there)


def row(tool: CopyTool) -> str:
    """Return a tool's row of the table."""
    features = tool.features
    names = ", ".join(f"`{name}`" for name in (tool.name, *aliases_of(tool.name)))
    schemes = " ".join(f"`{scheme}`" for scheme in features.schemes) or "any"
    credentials = (("proxy", features.needs_proxy), ("token", features.needs_token))
    login = " or ".join(name for name, wanted in credentials if wanted)
    return "| " + " | ".join((
        names, tool.summary, schemes, _source(features.needs_replicas, features.needs_protocols_in),
        _source(False, features.needs_protocols_out), login, _besides(features), tool.library or "nothing",
    )) + " |"


def page() -> str:
    """Return the page."""
    rows = "\n".join(row(tool) for tool in tools())
    dead = "\n".join(f"| `{name}` | {advice} |" for name, advice in SUCCESSORS.items())
    return f"{_INTRODUCTION}{rows}\n{_DEAD}{dead}\n"


def main() -> None:
    """Write to the file named by the first argument, else to stdout."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
