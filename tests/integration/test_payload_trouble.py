"""Payloads that misbehave: they fork, hide, fill files, destroy their surroundings; the job ends, and is explained."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Farm
from looks import archive, ended_well, report_of


def log_of(farm: Farm, job: int) -> dict[str, bytes]:
    return archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


def test_thousand_children_are_ended_with_the_job(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job("for i in $(seq 1000); do sleep 1000 & done\n" + gate.shell())
    pilot = farm.start_pilot(settings={"pilot.heartbeat": 1, "shutdown.term_grace": 2})
    gate.reached()
    assert len(farm.payload_processes()) > 1000
    farm.wait_state(job, "starting", "running")
    farm.server.kill(job)
    assert pilot.wait() == 0
    ended_well(pilot)
    assert farm.payload_processes() == []
    assert int(farm.final(job)["pilotErrorCode"]) == 1144


def test_what_a_good_payload_leaves_behind_is_ended(farm: Farm) -> None:
    gate = farm.gate("daemon")
    job = farm.submit_job("setsid sh -c 'trap \"\" TERM HUP INT; (trap \"\" TERM; sleep 1000) &"
                          f" echo here > {gate.arrival}; wait' > /dev/null 2>&1 &\n"
                          f"read line < {gate.arrival}\necho done > out.dat", outputs=["out.dat"])
    pilot = ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"
    assert farm.payload_processes() == []
    assert "left" in pilot.log


def test_payload_that_ignores_sigterm_is_killed(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job("trap '' TERM INT HUP QUIT USR1\n" + gate.shell() + "while true; do sleep 1000; done")
    pilot = farm.start_pilot(settings={"pilot.heartbeat": 1, "shutdown.term_grace": 1})
    gate.reached()
    farm.wait_state(job, "starting", "running")
    farm.server.kill(job)
    pilot.wait()
    ended_well(pilot)
    assert farm.payload_processes() == []


@pytest.mark.parametrize("exit_code", [0, 3])
def test_much_and_binary_output(farm: Farm, exit_code: int) -> None:
    job = farm.submit_job("head -c 30000000 /dev/zero | tr '\\0' '\\377'\nhead -c 3000000 /dev/urandom >&2\n"
                          f"printf '\\033[31m\\000\\r\\n' >&2; echo 'last words: \xe4\xff' >&2\nexit {exit_code}")
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == ("failed" if exit_code else "finished")
    if exit_code:
        assert "last words" in final["pilotErrorDiag"]
        assert len(final["pilotErrorDiag"]) <= 500 and len(final["pilotLog"].encode()) <= 1024
    assert len(log_of(farm, job)["payload.stdout"]) == 30000000


@pytest.mark.parametrize("exit_code", [0, 5])
def test_payload_that_removes_its_work_directory(farm: Farm, exit_code: int) -> None:
    job = farm.submit_job(f"echo goodbye\ncd ..; rm -rf PanDA_Pilot-*\nexit {exit_code}", outputs=["out.dat"])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "failed"
    assert int(final["pilotErrorCode"]) == (1305 if exit_code else 1165), final["pilotErrorDiag"]
    assert int(final["transExitCode"]) == exit_code
    members = log_of(farm, job)
    assert b"received job" in members["pilotlog.txt"]
    assert list(report_of(final)) == [farm.server.job(job)["definition"]["logFile"]]


@pytest.mark.parametrize("wreck", [
    "rm -f payload.stdout payload.stderr", "mv payload.stdout x; mkdir payload.stdout", "chmod 000 .",
    "rm -rf pilotlog.txt; mkfifo pilotlog.txt", "mkfifo jobReport.json", "ln -s . loop; ln -s loop/loop jobReport.json",
    "mkdir jobReport.json payload_error_report.json", "head -c 20000000 /dev/urandom > jobReport.json",
    "echo '[[[[' > jobReport.json; echo '\xff\xfe' > payload_error_report.json",
    "mkdir -p $(printf 'd/%.0s' $(seq 300))",
    "touch -d '1900-01-01' old; touch -d '2200-01-01' new", "for i in $(seq 3000); do : > f$i; done",
    "rm -f ../pilotlog.txt", "rm -f ../pilot.db ../pilot.db-wal ../pilot.db-shm", "chmod 000 ../pilot.db",
    "mkfifo fifo; mknod dev c 1 3; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'",
])
def test_wrecked_surroundings(farm: Farm, wreck: str) -> None:
    job = farm.submit_job(f"echo data > out.dat\n{wreck}\ntrue", outputs=["out.dat"])
    pilot = farm.run_pilot()
    final = farm.final(job)
    ended_well(pilot)
    if final["state"] == "failed":
        assert int(final["pilotErrorCode"]) and final["pilotErrorDiag"]
    else:
        assert (farm.outputs / "out.dat").read_text() == "data\n"


def test_payload_that_closes_its_output_and_input(farm: Farm) -> None:
    job = farm.submit_job("exec < /dev/null > /dev/null 2>&1 3>&- ; cat; echo data > out.dat", outputs=["out.dat"])
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"


def test_payload_gets_no_open_files_of_the_pilot(farm: Farm) -> None:
    job = farm.submit_job("ls -l /proc/$$/fd | grep -v 'total\\|pipe' | sed 's/.*-> //'; cat")
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"
    lines = [line for line in log_of(farm, job)["payload.stdout"].decode().splitlines()
             if not line.endswith((".sh", "payload.stdout", "payload.stderr", "/dev/null"))]
    assert lines == []


def test_failing_payload_with_core_dump(farm: Farm) -> None:
    elf_core = Path(farm.directory / "core_head")
    elf_core.write_bytes(b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x04\x00" + b"\0" * 4000)
    job = farm.submit_job(f"cp {elf_core} core.4711; kill -SEGV $$")
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "failed"
    assert "core.4711" not in log_of(farm, job)


def test_error_report_of_the_payload_is_its_own_word(farm: Farm) -> None:
    job = farm.submit_job(
        """echo '{"error_code": 1234, "error_diag": "my own words"}' > payload_error_report.json; exit 9""")
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["transExitCode"])) == ("failed", 9)
    assert "my own words" in final["pilotErrorDiag"] + str(final["exeErrorDiag"])


def test_the_names_of_the_payloads_reports_are_settings(farm: Farm) -> None:
    good = farm.submit_job("""echo '{"name": "mine"}' > mine.json""")
    bad = farm.submit_job("""echo '{"error_code": 7, "error_diag": "in my own file"}' > error.json; exit 9""")
    names = {"payload.jobreport": "mine.json", "payload.error_report": "error.json"}
    for _ in (good, bad):
        ended_well(farm.run_pilot(settings=names))
    assert "mine" in farm.final(good)["metaData"]
    final = farm.final(bad)
    assert (int(final["exeErrorCode"]), final["exeErrorDiag"]) == (7, "in my own file")
