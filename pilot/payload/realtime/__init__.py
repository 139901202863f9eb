"""Real-time logging: lines of a running payload's files go to a log server, and never delay the payload.

::

    plan.py (whether, which files, where to) ── stream.py (the thread) ─┬─ follow.py (new lines) ── records.py
                                                                        └─ sinks.py, fluent.py (the server)
"""
