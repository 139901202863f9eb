"""Writes the reference of all settings and options as Markdown, from the code: ``generate_settings.py [FILE]``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pilot.options import build_parser
from pilot.settings import default_settings
from pilot.settings_sections import SECTIONS, WITHOUT_EFFECT

_INTRODUCTION = """# Settings

A setting is `section.key`. Later layers win: packaged defaults, the experiment's file, the site's file (the INI that
`HARVESTER_PILOT_CONFIG` names, then the YAML of `--config FILE`), the environment (`PANDA_PILOT_<SECTION>__<KEY>`),
options (`--set section.key=value`). Sizes may be written as `2 GB`; kB, MB, GB and TB are powers of 1024. A value that
starts with `$NAME` or `${NAME}` in a file takes the environment variable. An unknown key stops the pilot (exit code 65)
with a suggestion, except in the INI, where it is a warning. The log names each value that is not the default, with who
has set it. *No effect yet* marks what this version accepts and checks, but does not act on.
"""

_OPTIONS_INTRODUCTION = """# Options

The names, defaults and meanings are those that wrappers, Harvester and submission templates use. An unknown option
ends the pilot with exit code 2 and a suggestion; abbreviations are not accepted. BOOL is yes/no, true/false, t/f, y/n
or 1/0.
"""


def _cell(value: object) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return f"`{_escaped(text)}`" if text else "(empty)"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def settings_tables() -> str:
    """Return one table per section: key, default, unit, meaning."""
    defaults = default_settings()
    lines: list[str] = []
    for section, cls in SECTIONS.items():
        lines += ["", f"## `{section}`", "", (cls.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["| key | default | unit | meaning |", "|---|---|---|---|"]
        for item in fields(cls):
            meta = item.metadata
            meaning = f"{meta['doc']} ({', '.join(meta['choices'])})" if meta["choices"] else meta["doc"]
            value = defaults.get(f"{section}.{item.name}")
            meaning = _escaped(meaning).replace("<", "&lt;")
            if f"{section}.{item.name}" in WITHOUT_EFFECT:
                meaning += " *(no effect yet)*"
            lines.append(f"| `{item.name}` | {_cell(value)} | {meta['unit']} | {meaning} |")
    return "\n".join(lines)


def options_tables() -> str:
    """Return one table per group of options: option, meaning with its default."""
    parser = build_parser()
    lines: list[str] = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if not actions:
            continue
        title = str(group.title)
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", "| option | meaning |", "|---|---|"]
        for action in actions:
            names = ", ".join(f"`{name}`" for name in action.option_strings)
            formatter = parser._get_formatter()
            value = "" if action.nargs == 0 else f" `{_escaped(formatter._format_args(action, action.dest))}`"
            text = _escaped(formatter._expand_help(action)).replace("<", "&lt;")
            lines.append(f"| {names}{value} | {text} |")
    return "\n".join(lines)


def page() -> str:
    """Return the page of the settings."""
    return f"{_INTRODUCTION}{settings_tables()}\n"


def options_page() -> str:
    """Return the page of the options."""
    return f"{_OPTIONS_INTRODUCTION}{options_tables()}\n"


def main() -> None:
    """Write both to the file named by the first argument, else to stdout."""
    text = f"{page()}\n{options_page()}"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
