"""A PilotDB with a job that has gone through a lot, and one that is as nasty as a job can be."""

from __future__ import annotations

import os
from pathlib import Path

from pilot.common.errors import JobError
from pilot.store.pilotdb import DATABASE_NAME, PilotDB
from pilot.store.viewrows import Limit, Moving, Sample

START = 1_760_000_000.0
SECRET = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwaWxvdCJ9.c2lnbmF0dXJl"  # noqa: S105
RTL = "\u202egnp.exe\u2066"


class Clock:
    """A wall clock that the story sets."""

    now = START

    def __call__(self) -> float:
        return self.now


def told_story(directory: Path, samples: int = 120) -> tuple[PilotDB, Clock]:
    """Return the database of a job whose payload has failed and whose log is about to leave."""
    clock = Clock()
    store = PilotDB(directory / DATABASE_NAME, clock)
    store.begin("token", "2.13.0.1", "node7.example.org")
    store.set_server("token", "TEST_QUEUE", "https://panda.example.org")
    store.set_facts({"batch job": "4711 (SLURM)", "setting 1": "pilot.heartbeat = 60 (default 1800)"})
    store.add_job("7", 2, "token", START, "{}", "transform.py")
    store.set_job("7", workdir=str(directory / "PanDA_Pilot-7"))
    store.add_transition("7", "accepted", "stagein")
    clock.now += 40
    store.add_transfer("7", "in.root", "stage-in", tool="rucio", seconds=38.0, size=4_000_000_000, status="DONE",
                       transfer_id="7.2.in.in.root.2", at=START + 1)
    store.add_transfer("7", "in.root", "stage-in", tool="rucio", seconds=1.0, status="FAILED", code=1151,
                       detail="no byte moved for 600 s", transfer_id="7.2.in.in.root.1", at=START)
    store.add_transition("7", "staged_in", "payload")
    for number in range(samples):
        clock.now += 60
        store.add_sample("7", Sample(clock.now, 55.0 * number, 1.9, 10**9 + number * 10**7, 5, pss=9 * 10**8 + number,
                                     read_bytes=number * 10**8, write_bytes=number * 10**6, workdir=number * 10**6))
    store.set_limit("7", Limit("memory", 4e9, "bytes", "maxrss of the queue x 2"))
    store.set_limit("7", Limit("time", 86400.0, "s", "maxtime of the queue"))
    store.add_note("7", "memory", "cannot measure: smaps_rollup is not readable")
    store.set_progress("7", "stage-in", [Moving("stage-in", "big.root", "rucio", clock.now - 10, clock.now, 420, 1000)])
    store.add_error("7", JobError(1137, "Failed to stage-out file: the log", 9, "storage", "elsewhere"))
    store.add_error("7", JobError(1305, "Failed to execute payload: exit code 7", None, "user", "never",
                                  "payload.stderr, line 12"))
    store.add_transition("7", "payload_failed", "stageout")
    clock.now += 2
    store.set_status("stage-out", "job 7: log")
    return store, clock


def nasty_story(directory: Path, transfers: int = 100_000) -> tuple[PilotDB, Clock]:
    """Return the database of a job all of whose strings are hostile, and of which there is too much of everything."""
    clock = Clock()
    store = PilotDB(directory / DATABASE_NAME, clock)
    evil = f"</script><script>alert('x')</script>\x1b[31m\x00{RTL} & \"quoted\" http://evil.example/?token={SECRET}"
    store.begin("token", evil, evil)
    store.set_facts({f"{evil} {number}": evil * 100 for number in range(200)})
    store.add_job("7", 1, "token", START, evil * 1000, evil)
    store.add_transition("7", "accepted", "payload", evil * 500)
    for _ in range(3000):
        store.add_transition("7", evil, "payload", evil * 3)
    for number in range(1500):
        store.add_sample("7", Sample(START + number, number, 1e9, 2**62, 10**6, 2**62, 2**62, number << 40, 0, 2**62))
    for number in range(60):
        store.set_limit("7", Limit(f"{evil} {number}", 1e300, evil, evil))
        store.add_note("7", evil, evil * 1000)
        store.add_error("7", JobError(1305 + number, (evil * 600)[:65536], None, evil, evil, evil * 600))
    for number in range(transfers):
        store.add_transfer("7", f"{evil}{number}", "stage-out", tool=evil, status=evil, code=number % 2, size=2**62,
                           detail=evil * 5 if number % 100 == 0 else evil, transfer_id=evil)
    store.put_message("7", {evil: evil * 1000, "metaData": {"a": [evil] * 1000}}, final=True, state="failed")
    clock.now += 3000
    return store, clock


def nasty_files(directory: Path) -> None:
    """Write log files that are binary, endless, secret."""
    directory.mkdir(exist_ok=True)
    (directory / "payload.stdout").write_bytes(os.urandom(3_000_000))
    (directory / "payload.stderr").write_bytes(b"<&\"'>" * 100_000 + b"\n" + b"x" * 90_000)
