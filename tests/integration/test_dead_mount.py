"""A mount whose server has died under the inputs: the pilot says so, reports, goes, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

import pytest
from deadmount import DeadMount
from harness import Farm
from looks import ended_well

SIZE = 1000
INPUTS = {f"in{number}.dat": bytes(SIZE) for number in range(6)}


@pytest.fixture
def dead() -> Iterator[Callable[[Path], DeadMount]]:
    made = []

    def make(place: Path) -> DeadMount:
        try:
            made.append(DeadMount(place, SIZE))
        except PermissionError as exc:
            pytest.skip(f"no right to mount file systems here: {exc}")
        return made[-1]

    yield make
    for mount in made:
        mount.close()


@pytest.mark.parametrize("copy_in", ["symlink", "cp"])
def test_inputs_on_a_dead_mount_are_given_up(farm: Farm, dead: Callable[[Path], DeadMount], copy_in: str) -> None:
    farm.set_queue(copytools={"mv": {"copy_in": copy_in}})
    job = farm.submit_job("true", inputs=INPUTS)
    dead(farm.inputs)
    ended_well(farm.run_pilot(settings={"transfers.no_progress_timeout": 1}))
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1151)
    assert "no byte moved for 1 s (transfers.no_progress_timeout)" in final["pilotErrorDiag"]
    assert (farm.outputs / farm.server.job(job)["definition"]["logFile"]).exists()


@pytest.mark.parametrize("end", ["SIGTERM", "tobekilled"])
def test_a_job_that_hangs_on_a_dead_mount_can_be_ended(
    farm: Farm, dead: Callable[[Path], DeadMount], end: str
) -> None:
    job = farm.submit_job("true", inputs=INPUTS)
    mount = dead(farm.inputs)
    pilot = farm.start_pilot(settings={"pilot.heartbeat": 1})
    assert mount.reads.wait(30)
    if end == "SIGTERM":
        pilot.send("SIGTERM")
    else:
        farm.wait_state(job, "starting", "running")  # a job that has not begun is closed without a report
        farm.server.kill(job)
    pilot.wait()
    code, shell = (1201, 143) if end == "SIGTERM" else (1144, 0)
    ended_well(pilot, shell)
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code)
    assert "was left behind" in pilot.output
