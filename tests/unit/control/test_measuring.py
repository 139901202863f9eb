"""What cannot be measured is said, and fails no job (1344, 1352 to 1354 of existing pilots)."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from pilot.control.monitor import MonitorComponent, Watch
from pilot.info.job import Job
from pilot.util import procfs


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOENT, errno.ESRCH, errno.EMFILE])
def test_trouble_with_proc_fails_no_job(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def scan() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(procfs, "scan", scan)
    job = Job("77")
    child: Any = SimpleNamespace(descendants=lambda table: [])
    ctx: Any = SimpleNamespace()
    MonitorComponent(ctx)._sample(Watch(job, job, child=child))
    assert not job.errors and job.cpu_seconds == 0
    assert f"no sample of its processes: [Errno {number}]" in caplog.text
