"""Writes the reference of all settings and options as Markdown, from the code: ``generate_settings.py [FILE]``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pilot.options import build_parser
from pilot.settings import default_settings
from pilot.settings_sections import SECTIONS

_INTRODUCTION = """# Settings and options

A setting is `section.key`. Later layers win: packaged defaults, the experiment's file, the site's file (the INI that
`HARVESTER_PILOT_CONFIG` names, then the YAML of `--config FILE`), the environment (`PANDA_PILOT_<SECTION>__<KEY>`),
options (`--set section.key=value`). Sizes may be written as `2 GB`; kB, MB, GB and TB are powers of 1024. A value that
starts with `$NAME` or `${NAME}` in a file takes the environment variable. An unknown key stops the pilot (exit code 65)
with a suggestion, except in the INI, where it is a warning.
"""


def _cell(value: object) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return f"`{text}`".replace("|", "\\|") if text else "(empty)"


def settings_tables() -> str:
    """Return one table per section: key, default, unit, meaning."""
    from dataclasses import fields

    defaults = default_settings()
    lines: list[str] = []
    for section, cls in SECTIONS.items():
        lines += ["", f"## `{section}`", "", (cls.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["| key | default | unit | meaning |", "|---|---|---|---|"]
        for item in fields(cls):
            meta = item.metadata
            meaning = f"{meta['doc']} ({', '.join(meta['choices'])})" if meta["choices"] else meta["doc"]
            value = defaults.get(f"{section}.{item.name}")
            meaning = meaning.replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| `{item.name}` | {_cell(value)} | {meta['unit']} | {meaning} |")
    return "\n".join(lines)


def main() -> None:
    """Write to the file named by the first argument, else to stdout."""
    text = f"{_INTRODUCTION}{settings_tables()}\n\n## Options\n\n```text\n{build_parser().format_help()}```\n"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
