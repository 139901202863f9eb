"""Reads XML that strangers wrote: streaming, so that memory stays small, and without entities, so that none explode."""

from __future__ import annotations

from typing import Callable, Mapping, Optional

DEPTH_LIMIT = 64
"""Elements inside each other; no file that the pilot reads has more than five."""
ATTRIBUTE_LIMIT = 64 * 1024
"""Characters of one attribute."""

Start = Callable[[str, Mapping[str, str]], None]


class UnsafeXML(ValueError):
    """No XML, or XML that no honest program writes; the text says where and why."""


def walk_xml(raw: bytes, start: Start, end: Optional[Callable[[str], None]] = None) -> None:
    """Call ``start(name, attributes)`` and ``end(name)`` for each element of ``raw``, in document order.

    External entities and DTDs are never loaded.

    Raises:
        UnsafeXML: not well-formed (the line is named), declares entities, or is nested beyond ``DEPTH_LIMIT``.
    """
    from xml.parsers import expat

    parser = expat.ParserCreate()
    depth = 0

    def on_entity(name: str, *_rest: object) -> None:
        raise UnsafeXML(f"line {parser.CurrentLineNumber}: declares the entity {name[:40]!r}; entities are refused")

    def on_start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEPTH_LIMIT:
            raise UnsafeXML(f"line {parser.CurrentLineNumber}: more than {DEPTH_LIMIT} elements inside each other")
        if any(len(value) > ATTRIBUTE_LIMIT for value in attributes.values()):
            raise UnsafeXML(f"line {parser.CurrentLineNumber}: attribute of more than {ATTRIBUTE_LIMIT} characters")
        start(name, attributes)

    def on_end(name: str) -> None:
        nonlocal depth
        depth -= 1
        if end is not None:
            end(name)

    parser.EntityDeclHandler = on_entity
    parser.StartElementHandler = on_start
    parser.EndElementHandler = on_end
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as exc:
        raise UnsafeXML(str(exc)) from None
    except (ValueError, LookupError) as exc:  # an encoding that Python does not know, or that has several bytes
        raise exc if isinstance(exc, UnsafeXML) else UnsafeXML(str(exc)) from None
