"""The sandbox: a PanDA server for one machine that pilots run against (demo, tests, debugging).

It speaks both dialects with the real server's answers and rules, as recorded in tests/data/panda-server-transcripts.
"""

from __future__ import annotations

from sandbox.api import Sandbox
from sandbox.faults import Fault, Faults
from sandbox.server import TLSFiles
from sandbox.wire import RecordedRequest

__all__ = ["Fault", "Faults", "RecordedRequest", "Sandbox", "TLSFiles"]
