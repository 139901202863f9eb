"""The table of failures: what a payload does -> what the server, the shifter and the retry rules get."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from failuretable import SITE, TEXTS, Row  # noqa: E402

from pilot.common.errorcodes import ERROR_TABLE, RETRY, WHO  # noqa: E402
from pilot.control import verdict  # noqa: E402
from pilot.info.job import Job  # noqa: E402
from pilot.info.queuedata import QueueData  # noqa: E402
from pilot.panda.messages import ReportEnvironment, build_update  # noqa: E402
from pilot.payload.process import Supervisor  # noqa: E402
from pilot.settings import default_settings  # noqa: E402
from pilot.store.pilotdb import PilotDB  # noqa: E402
from pilot.user import load_experiment  # noqa: E402
from pilot.util import oomkills  # noqa: E402

SETTINGS = default_settings()
EVENTS = "sys/fs/cgroup/job/memory.events"


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    made.close()


class Outcome:
    """What became of one payload."""

    def __init__(self, job: Job, message: dict[str, Any]) -> None:
        self.job, self.message = job, message
        self.primary = job.errors.primary(job.payload_succeeded)


def run(row: Row, directory: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Run the row's payload as the pilot does, judge its end, make the final report."""
    root, workdir = directory / "root", directory / "work"
    (root / EVENTS).parent.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/job\n")
    (root / EVENTS).write_text("oom_kill 5\n")
    monkeypatch.setattr(oomkills, "ROOT", root)
    monkeypatch.setattr(verdict, "memory_limit", lambda: row.memory[1] * 1024)
    monkeypatch.setattr(verdict, "_most_memory", lambda ctx, job, status: row.memory[0])
    workdir.mkdir()
    job = Job("77", workdir=workdir, minramcount=row.asked,
              transformation="https://panda.example.org/trf/runGen" if row.analysis else "Reco_tf.py")
    queue = QueueData(name="Q", params={} if row.allowed is None else {"allowed_connections": row.allowed})
    ctx: Any = SimpleNamespace(
        settings=SETTINGS, store=PilotDB(None), experiment=load_experiment(row.experiment), environ={},
        info=SimpleNamespace(queue_for=lambda job: queue), options=SimpleNamespace(executor_type=""), server=object())
    script = f"echo 'oom_kill {5 + row.oom}' > {root / EVENTS}\n{row.script}" if row.oom else row.script
    outputs = [os.open(workdir / name, os.O_WRONLY | os.O_CREAT, 0o644)
               for name in ("payload.stdout", "payload.stderr")]
    child = supervisor.spawn(["/bin/bash", "-c", script], cwd=workdir, env=dict(os.environ), stdout=outputs[0],
                             stderr=outputs[1])
    for descriptor in outputs:
        os.close(descriptor)
    status = child.wait(60)
    assert status is not None, "the payload did not end"
    job.exit_code = status.code
    verdict.judge(ctx, job, status)
    state = "failed" if job.errors or job.exit_code else "finished"
    assert [error.code for error in ctx.store.errors("77")] == job.errors.codes(), "the PilotDB has them all"
    return Outcome(job, build_update(job, state, ReportEnvironment("Q", "n", "2"), 1.0))


def check(row: Row, done: Outcome) -> None:
    message = done.message
    told = (message["pilotErrorCode"], message.get("exeErrorCode", 0), message["transExitCode"], message["state"])
    assert told == (row.code, row.exe, row.trans, "failed" if row.code else "finished"), message["pilotErrorDiag"]
    text = str(message["pilotErrorDiag"])
    if not row.code:
        assert text == "" and done.primary is None
        return
    assert done.primary is not None
    assert (done.primary.who, done.primary.retry) == (row.who, row.retry), done.primary
    assert done.primary.who in WHO and (done.primary.retry in RETRY or re.fullmatch(r"with \d+ MB more",
                                                                                     done.primary.retry))
    assert text.startswith(ERROR_TABLE[row.code].text) and len(text) <= 256 and text.isprintable()
    assert text.endswith("]") and f"[{row.who}; retry: {row.retry}" in text
    assert row.words in text
    assert "TopSecret99" not in text
    behind = {error.code for error in done.job.errors} - {row.code, 1305, 1220, 1351}
    assert behind == set(row.others)
    assert all(f"{code}" in text.rpartition("also ")[2] for code in row.others)
    assert done.primary.evidence or row.code == 1187, "every error of a payload names its rule"


@pytest.mark.parametrize("row", TEXTS, ids=[row.name.replace(" ", "-") for row in TEXTS])
def test_behaviour(row: Row, tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    check(row, run(row, tmp_path, supervisor, monkeypatch))


# Exit codes that are no ordinary failure; every other one is 1305, the user's, and of no use again.
SPECIAL = {
    0: Row("", "", 0),
    132: Row("", "", 1388, who="release", retry="elsewhere"),
    139: Row("", "", 1328),
    **{128 + number: Row("", "", 1305, who="site", retry="elsewhere") for number in (1, 2, 3, 7, 9, 15, 24, 25)},
}


@pytest.mark.parametrize("number", range(256))
def test_exit_code(number: int, tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    row = SPECIAL.get(number, Row("", "", 1305))._replace(script=f"exit {number}", trans=number)
    done = run(row, tmp_path, supervisor, monkeypatch)
    check(row, done)
    if number:
        assert f"exit code {number}" in str(done.message["pilotErrorDiag"])


HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
DEADLY = sorted(set(signal.valid_signals()) - HARMLESS - STOPPING)


@pytest.mark.parametrize("number", DEADLY, ids=int)
def test_death_by_signal(number: int, tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    row = SPECIAL.get(128 + number, Row("", "", 1305))
    script = f"exec {sys.executable} -c 'import os, signal\n" \
             f"if {number} not in (9, 19): signal.signal({number}, signal.SIG_DFL)\nos.kill(os.getpid(), {number})'"
    row = row._replace(script=script, trans=128 + number)
    check(row, run(row, tmp_path, supervisor, monkeypatch))


@pytest.mark.parametrize("number", sorted(HARMLESS), ids=int)
def test_signal_that_ends_nothing(
    number: int, tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("", f"kill -{int(number)} $$; exit 0", 0, 0)
    check(row, run(row, tmp_path, supervisor, monkeypatch))


def test_the_table_is_large_enough_and_its_names_are_its_own() -> None:
    assert len(TEXTS) + 256 + len(DEADLY) >= 150
    assert len({row.name for row in TEXTS}) == len(TEXTS) >= 120
    assert SITE == ("site", "elsewhere")


def test_a_rule_with_a_fault_costs_its_own_finding_only(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pilot.info.diagnosis import Case, Finding, Rule
    from pilot.payload import diagnose

    class Faulty(Rule):
        name = "faulty"

        def look(self, case: Case) -> list[Finding]:
            raise ZeroDivisionError

    monkeypatch.setattr(diagnose, "RULES", (Faulty(), *diagnose.RULES))
    row = Row("", "echo 'std::bad_alloc' >&2; exit 1", 1212, retry="with more memory")
    check(row, run(row, tmp_path, supervisor, monkeypatch))
    assert "the diagnosis by rule faulty failed" in caplog.text
