"""Every experiment runs the same jobs; and whatever a plug-in does, no job is lost."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable
from typing import Any, Iterator, NamedTuple

import pytest
from harness import ROOT, Farm
from looks import archive, ended_well, report_of

from pilot.user.guard import hooks

EXPERIMENTS = ("generic", "rubin", "sphenix", "eic", "ska", "darkside", "atlas")
"""A new experiment adds its name here."""
SOFTWARE = ROOT / "tests" / "standins" / "cvmfs"
REPORT = json.dumps({"exitCode": 0, "exitAcronym": "OK", "exitMsg": "OK", "executor": [], "files": {"output": [
    {"subFiles": [{"name": "out.dat", "nentries": 5, "file_guid": "6A1B2C3D-0000-4000-8000-000000000001"}]}]}})
GOOD = f"cat in.dat > out.dat; echo to stdout\ncat > jobReport.json <<'END'\n{REPORT}\nEND\n"
OWN_CONTAINERS = ("rubin", "sphenix")
"""Their transforms start containers themselves."""


@pytest.fixture
def web(farm: Farm) -> Iterator[str]:
    """The scripts of the farm as a web server has them."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(farm.scripts)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Case(NamedTuple):
    """A job and what must become of it; ``codes`` empty = finished."""

    submit: Callable[[Farm, str], int]
    codes: tuple[int, ...] = ()
    exit_code: int = 0
    outputs: tuple[str, ...] = ()


def _job(payload: str, *, outputs: tuple[str, ...] = ("out.dat",), **fields: Any) -> Callable[[Farm, str], int]:
    return lambda farm, web: farm.submit_job(payload, inputs={"in.dat": b"data\n"}, outputs=list(outputs), **fields)


def _by_url(payload: str, *, base: str = "{web}/", **fields: Any) -> Callable[[Farm, str], int]:
    def submit(farm: Farm, web: str) -> int:
        script = farm.script(payload)
        return farm.submit_job("true", transformation=f"{base.format(web=web)}{script.name}", outputs=["out.dat"],
                               **fields)

    return submit


def cases(name: str) -> dict[str, Case]:
    """The jobs; the few that experiments treat differently say so here."""
    image = {"container_name": "docker://an.example/image:1"}
    judges = name == "atlas"  # depends on job reports
    return {
        "good": Case(_job(GOOD), outputs=("out.dat",)),
        "fails": Case(_job("echo last words >&2; exit 7"), (1305,), 7),
        "killed": Case(_job("kill -SEGV $$"), (1328,), 139),
        "output missing": Case(_job(GOOD.replace("> out.dat", "> other.dat")), (1165,)),
        "by URL": Case(_by_url(f"echo got $1 > out.dat\n{GOOD.split(chr(10), 1)[1]}", jobPars="word"),
                       outputs=("out.dat",)),
        "by forbidden URL": Case(_by_url("true", base="http://trf.example.org/"), (1149,)),
        "by URL that is not there": Case(_by_url("true", base="{web}/nothing/"), (1149,)),
        "no transformation": Case(_job("true", transformation=""), (1302,)),
        "image": Case(_job(GOOD, **image), () if name in OWN_CONTAINERS else (1384,)),
        "broken report": Case(_job("echo x > out.dat; echo '[[[NaN' > jobReport.json"), (1187, 1300) if judges else ()),
        "no report": Case(_job("echo x > out.dat"), (1187,) if judges else ()),
        "binary output": Case(_job(f"head -c 2000000 /dev/urandom\n{GOOD}"), outputs=("out.dat",)),
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_the_same_jobs(farm: Farm, web: str, name: str) -> None:
    farm.set_queue(timefloor=3600)
    known = cases(name)
    jobs = {title: case.submit(farm, web) for title, case in known.items()}
    pilot = ended_well(farm.run_pilot(
        "--pilot-user", name.upper(), "--baseurls", web, "-v", "1", "-x", "1", env={"ATLAS_SW_BASE": str(SOFTWARE)},
        timeout=110))
    problems = []
    for title, case in known.items():
        final = farm.server.job(jobs[title])["final"] or {}
        found = (final.get("state"), int(final.get("pilotErrorCode") or 0), int(final.get("transExitCode") or 0))
        good = (found[0] == "failed" and found[1] in case.codes and found[2] == case.exit_code if case.codes
                else found == ("finished", 0, 0))
        if not good or len(farm.final_updates(jobs[title])) != 1 or not set(case.outputs) <= set(
                report_of(final) if final else ()):
            problems.append(f"{title}: wanted {case.codes or 'finished'}, {case.exit_code}; got {found}: "
                            f"{final.get('pilotErrorDiag')}")
    assert not problems, "\n".join([*problems, pilot.output[-3000:]])
    (log,) = farm.outputs.rglob(farm.server.job(jobs["good"])["definition"]["logFile"])
    # sPHENIX: <scope>/<md5>/<md5>/<name>, the layout of the storage
    assert len(log.relative_to(farm.outputs).parts) == (4 if name == "sphenix" else 1)
    members = archive(log)
    assert b"to stdout" in members["payload.stdout"] and b"received job" in members["pilotlog.txt"]
    assert list(pilot.directory.glob("PanDA_Pilot-*")) == []


def test_eic_runs_on_the_platform_of_the_site(farm: Farm) -> None:
    farm.set_queue(container_type="apptainer:pilot", is_cvmfs=True)
    job = farm.submit_job("echo in $STANDIN_CONTAINER > out.dat", outputs=["out.dat"])
    ended_well(farm.run_pilot("--pilot-user", "EIC", env={
        "ATLAS_SW_BASE": str(SOFTWARE), "ALRB_USER_PLATFORM": "el9#x86_64"}))
    assert farm.final(job)["state"] == "finished"
    assert (farm.outputs / "out.dat").read_text() == "in el9#x86_64\n"


def test_a_pushed_pilot_of_rubin_takes_one_job(farm: Farm) -> None:
    farm.set_queue(timefloor=3600)
    first, second = farm.submit_job(), farm.submit_job()
    ended_well(farm.run_pilot("--pilot-user", "rubin", "--harvester-submit-mode", "PUSH", "-x", "1", "-v", "1",
                              env={"GTAG": "https://logs.example/PandaJob_1/log.txt"}))
    assert farm.final(first)["state"] == "finished" and farm.state(second) == "activated"
    assert str(farm.final(first)["pilotID"]).startswith(f"https://logs.example/PandaJob_{first}/log.txt|")


# --- hostile plug-ins -------------------------------------------------------------------------------------------------

HOSTILE = {"plugins.experiments": {"hostile": "hostile:Hostile"}}
OF_THE_PILOT = {"sanity_check", "verify_proxy", "allow_timefloor"}
"""Called for no job: the pilot ends, the job stays at the server for the next one."""
NOT_CALLED_HERE = {
    "verify_proxy",  # option -t
    "cvmfs_tree",  # option -b
    "pilot_proxy_role",  # a proxy whose attributes end soon
    "payload_proxy_role",  # user jobs with a proxy of their own
    "verifies_setup",  # commands with a set-up
}


def run_hostile(farm: Farm, hook: str, way: str) -> tuple[int, Any]:
    """A job that needs as many hooks as possible, with this one bad."""
    if hook == "middleware_command":
        farm.set_queue(container_type="bash:middleware")
    if hook == "contain":
        farm.set_queue(container_type="apptainer:pilot")
    job = farm.submit_job("cat in.dat > out.dat; echo '{\"exitCode\": 0}' > jobReport.json",
                          inputs={"in.dat": b"data\n"}, outputs=["out.dat"])
    pilot = farm.run_pilot("--pilot-user", "hostile", settings=HOSTILE,
                           env={"HOSTILE_HOOK": hook, "HOSTILE_WAY": way})
    return job, pilot


@pytest.mark.parametrize("way", ["raises", "number", "nonsense"])
@pytest.mark.parametrize("hook", sorted(hooks()))
def test_a_bad_hook_never_loses_a_job(farm: Farm, hook: str, way: str) -> None:
    job, pilot = run_hostile(farm, hook, way)
    assert "Traceback" not in pilot.output + pilot.log, pilot.output[-5000:]
    if hook in OF_THE_PILOT and "acquire_jobs" not in {request.operation for request in farm.server.requests}:
        assert pilot.process.returncode == 70
        assert f"hook {hook} of experiment hostile" in pilot.output
        return
    assert pilot.process.returncode == 0, pilot.output[-3000:]
    assert len(farm.final_updates(job)) == 1
    final = farm.final(job)
    if hook not in NOT_CALLED_HERE and (hook, way) != ("setup_end", "number"):  # 42 is a time
        assert f"hook {hook} of experiment hostile" in pilot.log
    if final["state"] == "failed":
        assert int(final["pilotErrorCode"]) in (1310, 1319, 1099, 1137), final["pilotErrorDiag"]
        assert f"hook {hook} of experiment hostile" in final["pilotErrorDiag"]
        assert "(hostile:Hostile)" in final["pilotErrorDiag"]


@pytest.mark.parametrize("way", ["exits", "shy", "list", "nothing"])
@pytest.mark.parametrize("hook", ["verify_job", "payload_command", "metadata", "job_metrics"])
def test_other_ways_to_be_bad(farm: Farm, hook: str, way: str) -> None:
    job, pilot = run_hostile(farm, hook, way)
    ended_well(pilot)
    final = farm.final(job)
    assert len(farm.final_updates(job)) == 1
    assert f"hook {hook} of experiment hostile" in pilot.log
    assert final["state"] == ("finished" if hook == "job_metrics" else "failed")


def test_all_hooks_bad_at_once_cost_no_job(farm: Farm) -> None:
    job, pilot = run_hostile(farm, "all", "raises")
    assert pilot.process.returncode == 70 and "Traceback" not in pilot.output
    assert farm.state(job) == "activated"


@pytest.mark.parametrize("body", ["raise RuntimeError('a rule with a fault')", "return [None]", "return 42",
                                  "yield Nonsense()"])
def test_a_bad_rule_of_diagnosis_costs_its_findings_only(farm: Farm, body: str) -> None:
    (farm.directory / "bad_rules.py").write_text(
        "from hostile import Nonsense\nfrom pilot.info.diagnosis import Rule\n"
        "from pilot.user.generic import GenericExperiment\n\n"
        f"class Bad(Rule):\n    name = 'bad'\n    def look(self, case):\n        {body}\n\n"
        "class Mine(GenericExperiment):\n    name = 'mine'\n"
        "    def diagnosis_rules(self, job):\n        return [Bad()]\n")
    job = farm.submit_job("echo my last words >&2; exit 9")
    environment = farm.environment()
    pilot = farm.run_pilot("--pilot-user", "bad_rules:Mine",
                           env={"PYTHONPATH": f"{farm.directory}:{environment['PYTHONPATH']}"})
    assert pilot.process.returncode == 0
    final = farm.final(job)
    assert (int(final["pilotErrorCode"]), int(final["transExitCode"])) == (1305, 9)
    assert "my last words" in final["pilotErrorDiag"]
