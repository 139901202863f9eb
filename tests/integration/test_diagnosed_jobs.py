"""Whole pilots: what a payload did reaches server, PilotDB, log archive and views with code, evidence and advice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PILOT, PYTHON, QUEUE_DOCUMENT, Farm
from looks import archive, ended_well

from tests import groups


def log_of(farm: Farm, job: int) -> dict[str, bytes]:
    return archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


def told(farm: Farm, job: int) -> tuple[str, int, int, int]:
    """State, pilotErrorCode, transExitCode, exeErrorCode."""
    final = farm.final(job)
    codes = (int(final.get(name) or 0) for name in ("pilotErrorCode", "transExitCode", "exeErrorCode"))
    return (final["state"], *codes)  # type: ignore[return-value]


# one of each family of rules; the table of all is tests/unit/payload/failuretable.py
FAMILIES = {
    "words": ("echo 'error: no calibration' >&2; exit 3", 1305, 3, 0, "exit code 3: error: no calibration [user; "),
    "exit 2 is no time-out of remote open": ("exit 2", 1305, 2, 0, "exit code 2"),
    "exit 255": ("exit 255", 1305, 255, 0, "exit code 255"),
    "no command": ("exec nosuchcommand", 1305, 127, 0, "nosuchcommand"),
    "space": ("echo \"cp: error writing 'a': No space left on device\" >&2; exit 1", 1098, 1, 0,
              "[site; retry: elsewhere]"),
    "memory": ("echo \"what(): std::bad_alloc\" >&2; exit 134", 1212, 134, 0, "bad_alloc [user; retry: with "),
    "container": ("echo 'FATAL:   container creation failed: Failed to mount image' >&2; exit 255", 1309, 255, 0,
                  "[site; retry: elsewhere]"),
    "architecture": ("echo \"x: /lib64/libc.so.6: version \\`GLIBC_2.34' not found\" >&2; exit 1", 1388, 1, 0,
                     "[release; retry: elsewhere]"),
    "own report": ("""echo '{"error_code": 5318, "error_diag": "my words"}' > payload_error_report.json; exit 18""",
                   1305, 18, 5318, "exit code 18: my words"),
    "exit 0, write failed": ("echo \"cp: error writing 'a': No space left on device\" >&2", 1098, 0, 0,
                             "exit code 0, but a write failed"),
    "several": ("echo 'FATAL:   x: Failed to mount image' >&2; echo std::bad_alloc; exit 255", 1309, 255, 0,
                "retry: elsewhere; also 1212]"),
    "not UTF-8": ("printf 'fatal: b\\351ton \\377\\n' >&2; exit 7", 1305, 7, 0, "fatal: b?ton ?"),
    "FIFO": ("rm payload.stdout; mkfifo payload.stdout; exit 9", 1305, 9, 0, "exit code 9"),
    "10 GB": ("truncate -s 10G payload.stdout; echo 'error: the end' >> payload.stdout; exit 9", 1305, 9, 0,
              "error: the end"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_failure_reaches_all_who_ask(farm: Farm, family: str) -> None:
    payload, code, trans, exe, words = FAMILIES[family]
    job = farm.submit_job(payload)
    pilot = ended_well(farm.run_pilot(settings={"limits.log_archive_max_file": "1 MB"}))
    assert told(farm, job) == ("failed", code, trans, exe)
    final = farm.final(job)
    assert words in final["pilotErrorDiag"] and len(final["pilotErrorDiag"]) <= 256
    assert str(code) in final["pilotLog"] and len(final["pilotLog"].encode()) <= 1024

    document = json.loads(log_of(farm, job)["pilot_errors.json"])
    assert (document["pilotErrorCode"], document["transExitCode"], document["exeErrorCode"]) == (code, trans, exe)
    primary = next(error for error in document["errors"] if error["code"] == code)
    assert primary["who"] and primary["retry"] and primary["evidence"].startswith("rule ")
    assert [error["code"] for error in document["errors"]] == [
        error.code for error in pilot.store().errors(str(job))], "the PilotDB has the same list"
    for view in ("--status", "--report"):
        done = subprocess.run([PYTHON, str(PILOT), view, str(pilot.directory)], capture_output=True, text=True,
                              timeout=60, cwd=farm.directory)
        shown = done.stdout + "".join(path.read_text() for path in pilot.directory.glob("*.html"))
        assert done.returncode == 0 and primary["evidence"].split(":")[0] in shown, view


def test_sigkill_from_outside(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot()
    os.kill(int(gate.reached().split()[0]), signal.SIGKILL)
    assert pilot.wait() == 0
    assert told(farm, job) == ("failed", 1305, 137, 0)
    assert "an unknown hand (not the pilot) sent the signal" in farm.final(job)["pilotErrorDiag"]
    assert farm.final(job)["pilotErrorDiag"].endswith("[site; retry: elsewhere]")


def core_dumps_are_files() -> bool:
    """True where the kernel writes core dumps into the directory of the process."""
    import resource

    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    return pattern.startswith("core") and resource.getrlimit(resource.RLIMIT_CORE)[1] != 0


NEEDS_CORE = pytest.mark.skipif(not core_dumps_are_files(), reason="core dumps go elsewhere: see failuretable.py")


@NEEDS_CORE
@pytest.mark.parametrize("keep", [False, True])
def test_own_segmentation_fault_with_core_dump(farm: Farm, keep: bool) -> None:
    job = farm.submit_job("ulimit -c unlimited; echo before; kill -SEGV $$")
    ended_well(farm.run_pilot(settings={"payload.keep_core_dumps": keep}))
    assert told(farm, job) == ("failed", 1328, 139, 0)
    assert farm.final(job)["pilotErrorDiag"].endswith("[user; retry: never; also 1355]")
    members = log_of(farm, job)
    assert any(name.startswith("core") for name in members) is keep
    errors = json.loads(members["pilot_errors.json"])["errors"]
    assert {error["code"] for error in errors} == {1328, 1355, 1305}


@NEEDS_CORE
def test_core_dump_of_a_child_does_not_fail_a_good_payload(farm: Farm) -> None:
    job = farm.submit_job("(ulimit -c unlimited; bash -c 'kill -SEGV $$'); true")
    pilot = ended_well(farm.run_pilot())
    assert told(farm, job) == ("finished", 0, 0, 0)
    assert "it left core dumps: core" in pilot.log
    assert not any(name.startswith("core") for name in log_of(farm, job))


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real control group with a limit of 400 MB."""
    with groups.memory_limited(400) as group:
        yield group


@pytest.mark.parametrize(("after", "trans", "asked", "advice"), [
    ("", 137, 100, "user; retry: with 500 MB more"),
    ("echo survived; exit 65", 65, 2000, "site; retry: elsewhere"),  # less than what the job had asked for
])
def test_out_of_memory_in_a_real_control_group(
    farm: Farm, limited: Path, after: str, trans: int, asked: int, advice: str
) -> None:
    line = f"{sys.executable} -c 'x = bytearray(1 << 30)'"
    job = farm.submit_job(f"{line}\n{after}" if after else f"exec {line}", minRamCount=asked,
                          resource_type="SCORE_HIMEM")
    ended_well(farm.run_pilot(prefix=groups.joined(limited)))
    assert told(farm, job) == ("failed", 1212, trans, 0)
    text = farm.final(job)["pilotErrorDiag"]
    assert "the kernel killed 1 process(es) for lack of memory" in text and "limit 409600 kB" in text
    assert "kB used, " in text and "resource type SCORE_HIMEM" in text
    assert text.endswith(f"[{advice}]")
    evidence = json.loads(log_of(farm, job)["pilot_errors.json"])["errors"][0]["evidence"]
    assert evidence == f"rule oom-kill: {limited / 'memory.oom_control'} oom_kill 0 -> 1" or "memory.events" in evidence


# --- connections ------------------------------------------------------------------------------------------------------

TRACE = ("printf '2026-01-31 12:00:00.123456 : INFO     connect: 188.185.85.104:443  cmd: python3\\n"
         "2026-01-31 12:00:01.123456 : INFO     connect: 10.1.2.3:3128  cmd: curl\\n' > pandatracerlog.txt")


def queue_params(allowed: object) -> dict[str, Any]:
    return {**dict(QUEUE_DOCUMENT["params"]), "allowed_connections": allowed}


def test_forbidden_connection_fails_a_good_payload(farm: Farm) -> None:
    farm.set_queue(params=queue_params("10.0.0.0/8:3128, proxy.example.org"))
    job = farm.submit_job(f"{TRACE}\necho x > out.dat", outputs=["out.dat"])
    pilot = ended_well(farm.run_pilot())
    assert told(farm, job) == ("failed", 1387, 0, 0)
    final = farm.final(job)
    assert final["pilotErrorDiag"] == ("Outbound connection not allowed: 188.185.85.104:443 (python3) "
                                       "[user; retry: elsewhere]")
    assert f"PandaID={job} had outbound connections: 10.1.2.3:3128, 188.185.85.104:443" in final["pilotLog"]
    assert "proxy.example.org" in pilot.log


@pytest.mark.parametrize("allowed", [None, "10.0.0.0/8 188.185.85.104:443", "*"])
def test_permitted_connections_are_in_the_log(farm: Farm, allowed: object) -> None:
    if allowed is not None:
        farm.set_queue(params=queue_params(allowed))
    job = farm.submit_job(TRACE)
    pilot = ended_well(farm.run_pilot())
    assert told(farm, job) == ("finished", 0, 0, 0)
    assert "had outbound connections: 10.1.2.3:3128, 188.185.85.104:443" in pilot.log
