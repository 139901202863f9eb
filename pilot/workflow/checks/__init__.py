"""The checks of ``pilot.py --check``: one function each, all in parallel, each bounded.

::

    base.py      Finding (ok, warn, FAIL, -), Scene (what a check may ask for)
    local.py  software.py  identity.py  network.py  site.py      the checks
    runner.py    the list of checks in the order of the table; runs them
    table.py     80 columns for people, JSON for programs

A new check: a function ``(Scene) -> Iterable[Finding]`` and a line in ``runner.CHECKS``.
"""
