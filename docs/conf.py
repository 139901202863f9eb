"""Sphinx: builds offline; the generated pages are written before each build."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import generate_api  # noqa: E402
import generate_codes  # noqa: E402
import generate_copytools  # noqa: E402
import generate_lifecycle  # noqa: E402
import generate_plugins  # noqa: E402
import generate_settings  # noqa: E402

GENERATED = HERE / "generated"
GENERATED.mkdir(exist_ok=True)
PAGES = {
    "settings.md": generate_settings.page, "options.md": generate_settings.options_page,
    "exit-codes.md": generate_codes.exit_codes_page, "error-codes.md": generate_codes.error_codes_page,
    "copytools.md": generate_copytools.page, "plugins.md": generate_plugins.page,
    "signals.md": generate_codes.signals_page, "lifecycle.md": generate_lifecycle.page, "api.rst": generate_api.page,
}
for name, write in PAGES.items():
    text = write()
    if not (GENERATED / name).exists() or (GENERATED / name).read_text(encoding="utf-8") != text:
        (GENERATED / name).write_text(text, encoding="utf-8")

project = "PanDA Pilot 2"
author = "the PanDA Pilot developers"
copyright = author
version = release = (ROOT / "PILOTVERSION").read_text(encoding="ascii").strip()
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False


def indent_fences(app, what, name, obj, options, lines):
    """Drawings in docstrings stand between Markdown fences; reStructuredText wants them indented behind ``::``."""
    inside, result = False, []
    for line in lines:
        if line.strip().startswith("```"):
            inside = not inside
            result += ["::", ""] if inside else [""]
        else:
            result.append(f"    {line}" if inside else line)
    lines[:] = result


def setup(app):
    """Register the hook."""
    app.connect("autodoc-process-docstring", indent_fences)
