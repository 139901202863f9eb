"""A node on which jobs fail one after the other: the pilot does not go on to the next one."""

from __future__ import annotations

from typing import List

from harness import Farm, Pilot
from looks import ended_well


def run(farm: Farm, **settings: object) -> Pilot:
    farm.set_queue(timefloor=3600)
    plugins = {"plugins.experiments": {"failing": "failing:FailingExperiment"}}
    return farm.run_pilot("--pilot-user", "failing", "-x", "1", settings={
        **plugins, **{key.replace("__", "."): value for key, value in settings.items()}})


def outcome(farm: Farm, job: int) -> str:
    """What the pilot has reported, else the job's state on the server."""
    final = farm.server.job(job)["final"]
    return str(final["state"]) if final else farm.state(job)


def submit(farm: Farm, *kinds: str) -> List[int]:
    """Jobs in this order: by priority."""
    return [farm.submit_job(homepackage=kind, currentPriority=900 - number) for number, kind in enumerate(kinds)]


def test_two_failed_set_ups_in_a_row_end_the_pilot_with_75(farm: Farm) -> None:
    jobs = submit(farm, "", "bad-setup", "bad-setup", "")
    pilot = run(farm)
    ended_well(pilot, 75)
    assert [outcome(farm, job) for job in jobs] == ["finished", "failed", "failed", "activated"]
    assert farm.final(jobs[2])["pilotErrorCode"] == 1110
    for words in ("2 failures in a row that this node has caused", f"job {jobs[1]} at ", f"job {jobs[2]} at ",
                  "look at: CVMFS on this node", "(1332, exit code 75)"):
        assert words in pilot.log
    store = pilot.store()
    assert [note.topic for note in store.notes(str(jobs[2]))] == ["black-hole"]
    store.close()


def test_failures_that_are_not_in_a_row_do_not_end_it(farm: Farm) -> None:
    jobs = submit(farm, "bad-setup", "", "bad-setup", "")
    ended_well(run(farm), 0)
    assert [outcome(farm, job) for job in jobs] == ["failed", "finished", "failed", "finished"]


def test_failures_of_the_users_do_not_count(farm: Farm) -> None:
    jobs = submit(farm, "bad-user", "bad-user", "bad-user", "")
    ended_well(run(farm), 0)
    assert [outcome(farm, job) for job in jobs] == ["failed", "failed", "failed", "finished"]


def test_the_number_is_a_setting(farm: Farm) -> None:
    jobs = submit(farm, "bad-setup", "bad-setup", "bad-setup", "bad-setup")
    ended_well(run(farm, limits__node_failures=3), 75)
    assert [outcome(farm, job) for job in jobs] == ["failed", "failed", "failed", "activated"]


def test_a_pilot_of_one_job_ends_with_0(farm: Farm) -> None:
    job, after = farm.submit_job(homepackage="bad-setup"), farm.submit_job()
    plugins = {"plugins.experiments": {"failing": "failing:FailingExperiment"}, "limits.node_failures": 1}
    pilot = farm.run_pilot("--pilot-user", "failing", settings=plugins)
    ended_well(pilot, 0)
    assert (outcome(farm, job), farm.state(after)) == ("failed", "activated")


def test_one_failed_stage_in_is_enough_and_the_log_says_what_to_look_at(farm: Farm) -> None:
    farm.set_queue(timefloor=3600)
    bad, good = farm.submit_job(inputs={"in.dat": b"data"}), farm.submit_job()
    (farm.inputs / "in.dat").unlink()
    pilot = farm.run_pilot()
    ended_well(pilot, 75)
    assert (outcome(farm, bad), farm.state(good)) == ("failed", "activated")
    assert "look at: network, client libraries and credentials on this node" in pilot.log
