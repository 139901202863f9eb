"""Secrets stay secret; hostile servers and payloads harm their own job only; odd environments change nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PILOT, ROOT, Farm
from looks import archive, ended_well

from pilot.workflow.leftovers import find_databases

NO_LIMIT = ("bash", "-c", 'ulimit -c unlimited && exec "$@"', "with-cores")


# --- the pilot's memory ----------------------------------------------------------------------------------------------
def test_the_pilot_dumps_no_core_and_its_payload_may(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"echo soft $(ulimit -S -c) hard $(ulimit -H -c)\n{gate.shell()}", log=True)
    pilot = farm.start_pilot(prefix=NO_LIMIT)
    gate.reached()
    limits = Path(f"/proc/{pilot.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 ", limits, re.MULTILINE), limits
    gate.open()
    pilot.wait()
    ended_well(pilot)
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert members["payload.stdout"] == b"soft unlimited hard unlimited\n"


def test_nobody_of_the_same_user_can_look_into_the_pilot() -> None:
    program = ("import ctypes, os, subprocess, sys\nfrom pilot.util.hardening import forbid_dumps\nforbid_dumps()\n"
               "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)\n"
               "subprocess.run([sys.executable, '-c', 'import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))'])")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"], "PR_GET_DUMPABLE of the pilot, of a process that it starts"


@pytest.mark.parametrize("closed", ["0<&- 1>&- 2>&-", "1>&-", "2>&-", "0<&-"])
def test_closed_standard_descriptors_do_no_harm(farm: Farm, closed: str) -> None:
    job = farm.submit_job("ls -l /proc/self/fd; echo words; echo more >&2")
    pilot = farm.run_pilot(prefix=("bash", "-c", f'exec "$@" {closed}', "closed"))
    assert pilot.process.returncode == 0, pilot.log[-3000:]
    assert farm.final(job)["state"] == "finished"
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert members["payload.stderr"] == b"more\n"
    assert "pilot has finished" in (pilot.directory / "pilotlog.txt").read_text()


# --- hostile payloads ------------------------------------------------------------------------------------------------
def test_links_in_place_of_output_and_logs_show_nothing_of_the_host(farm: Farm, tmp_path: Path) -> None:
    secret = tmp_path / "host-file"
    secret.write_text("error: alohomora is the word\n")
    names = "payload.stdout payload.stderr pandatracerlog.txt jobReport.json ../pilotlog.txt"
    job = farm.submit_job(f"for f in {names}; do "
                          f"rm -f $f; ln -s {secret} $f; done\nexit 4")
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["pilotErrorCode"] == 1305
    assert "alohomora" not in str(final)
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert not any(b"alohomora" in content for content in members.values())
    assert b"pilotlog.txt: a link in place of the file" in members["NOT_IN_THIS_ARCHIVE.txt"]


def test_a_job_directory_that_is_hard_to_remove_is_removed(farm: Farm) -> None:
    dig = farm.scripts / "dig.py"
    dig.write_text("import os\nfor _ in range(2500):\n    os.mkdir('a_long_name')\n    os.chdir('a_long_name')\n")
    job = farm.submit_job(f"python3 {dig}\nmkdir shut; echo > shut/file; chmod 000 shut .")
    pilot = ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"
    assert not list(pilot.directory.glob("PanDA_Pilot-*"))


def test_pipes_in_place_of_the_pilots_files_block_nobody(farm: Farm) -> None:
    job = farm.submit_job("echo x > out.dat; cd ..; rm -f output.list queuedata.json\n"
                          "mkfifo output.list queuedata.json", outputs=["out.dat"])
    pilot = ended_well(farm.run_pilot("--output-dir", ""))
    assert farm.final(job)["state"] == "finished"
    assert (pilot.directory / "out.dat").read_text() == "x\n"


# --- odd environments ------------------------------------------------------------------------------------------------
def test_ignored_and_blocked_signals_of_the_caller_change_nothing(farm: Farm) -> None:
    gate = farm.gate("payload")
    first = farm.submit_job("true")
    ended_well(farm.run_pilot(prefix=("bash", "-c", 'trap "" CHLD; exec "$@"', "deaf")))
    assert farm.final(first)["state"] == "finished", "the payload's exit code was lost"
    farm.submit_job(gate.shell())
    block = ("import os, signal, sys\n"
             "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
             "os.execvp(sys.argv[1], sys.argv[1:])")
    pilot = farm.start_pilot(prefix=(sys.executable, "-c", block))
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143


def test_no_file_can_be_written_by_everybody(farm: Farm) -> None:
    farm.submit_job("echo x > out.dat; echo note > note", outputs=["out.dat"])
    pilot = ended_well(farm.run_pilot("--cleanup", "False", prefix=("bash", "-c", 'umask 0; exec "$@"', "open")))
    paths = [path for place in (pilot.directory, farm.outputs) for path in place.rglob("*") if not path.is_symlink()]
    assert len(paths) > 6
    assert [path for path in paths if path.stat().st_mode & 0o002] == []


@pytest.mark.parametrize("limit", ["--nofile=64:64", "--as=400000000", "--stack=1000000"])
def test_small_limits_are_enough(farm: Farm, limit: str) -> None:
    job = farm.submit_job("cat in.txt > out.dat", inputs={"in.txt": b"words"}, outputs=["out.dat"])
    ended_well(farm.run_pilot(prefix=("prlimit", limit)))
    assert farm.final(job)["state"] == "finished"


@pytest.mark.parametrize("variables", [
    {"PYTHONWARNINGS": "error"}, {"PYTHONDEVMODE": "1"}, {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
    {"LC_ALL": "C", "TZ": ":/nonexistent", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=lambda item: next(iter(item)))
def test_odd_environments_change_nothing(farm: Farm, variables: dict) -> None:
    job = farm.submit_job("cat in.txt > out.dat", inputs={"in.txt": b"words"}, outputs=["out.dat"])
    pilot = ended_well(farm.run_pilot(env=variables))
    assert farm.final(job)["state"] == "finished"
    assert "Warning" not in pilot.output


# --- neighbours ------------------------------------------------------------------------------------------------------
def test_pilots_that_come_and_go_below_one_directory_leave_each_other_alone(farm: Farm) -> None:
    launch = farm.directory / "launch"
    launch.mkdir()
    jobs = [farm.submit_job("true", log=False) for _ in range(12)]
    for options in ((), ("-a", "work")):
        pilots = [farm.start_pilot(*options, directory=launch) for _ in range(6)]
        looks = [farm.start([sys.executable, str(PILOT), command, str(launch)], directory=launch)
                 for command in ("--status", "--recover")]
        for pilot in [*pilots, *looks]:
            pilot.wait()
            ended_well(pilot)
    assert [farm.final(job)["state"] for job in jobs] == ["finished"] * 12
    assert all(len(farm.final_updates(job)) == 1 for job in jobs)
    assert list((launch / "work").iterdir()) == []


def test_databases_are_found_while_their_directories_vanish(tmp_path: Path) -> None:
    program = ("import os, shutil, sys\nwhile True:\n    os.makedirs('PanDA_Pilot2_x/deep')\n"
               "    open('PanDA_Pilot2_x/pilot.db', 'w').close()\n    shutil.rmtree('PanDA_Pilot2_x')\n")
    (tmp_path / "pilot.db").touch()
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path) as churn:
        try:
            counts = {len(find_databases(tmp_path)) for _ in range(3000)}
        finally:
            churn.kill()
    assert counts <= {1, 2}


# --- faults ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("thread", [False, True])
def test_a_real_fault_in_the_pilot_ends_it_at_once(thread: bool) -> None:
    program = ("import ctypes, threading\nfrom pilot.control.shutdown import Shutdown\n"
               "Shutdown(5.0).install_handlers()\ncrash = lambda: ctypes.PyDLL(None).memset(1, 0, 10)\n"
               + ("thread = threading.Thread(target=crash)\nthread.start()\nthread.join()" if thread else "crash()"))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30, check=False)
    assert done.returncode == -signal.SIGSEGV


def test_payloads_take_every_signal(farm: Farm) -> None:
    job = farm.submit_job("grep SigBlk /proc/self/status; grep SigIgn /proc/self/status")
    ended_well(farm.run_pilot())
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert re.findall(rb"SigBlk:\s+([0-9a-f]+)", members["payload.stdout"]) == [b"0" * 16]


# --- hostile servers -------------------------------------------------------------------------------------------------
def test_a_command_line_beyond_the_kernels_limit_is_said_with_the_limit(farm: Farm) -> None:
    job = farm.submit_job("true", jobPars="x" * 200_000)
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["pilotErrorCode"] == 1310
    assert re.search(r"command line has 2\d{5} bytes, the kernel takes 131071", final["pilotErrorDiag"])


def test_what_a_server_calls_a_job_cannot_forge_the_log(farm: Farm) -> None:
    job = farm.submit_job("exit 3", processingType="x\x1b[2J\n2026-01-01 00:00:00,000 | CRITICAL | forged",
                          jobName="\x1b]0;owned\x07")
    pilot = farm.run_pilot()
    assert farm.server.job(job)["updates"]
    status = farm.start([sys.executable, str(PILOT), "--status", str(pilot.directory)])
    status.wait()
    for text in (pilot.output, pilot.log, status.output):
        assert "\x1b" not in text and "\x07" not in text
        assert not re.search(r"^2026-01-01", text, re.MULTILINE)
