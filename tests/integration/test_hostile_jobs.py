"""Job definitions that are broken or hostile, through the whole pilot: failed at the server with a clear diagnosis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import Farm
from looks import ended_well

BAD_FIELDS: list[tuple[dict[str, Any], int, str]] = [
    ({"fsize": "-5", "inFiles": "a"}, 1302, "fsize"),
    ({"fsize": "12abc", "inFiles": "a"}, 1302, "fsize"),
    ({"checksum": "ad:zzzzzzzz", "inFiles": "a", "fsize": "1"}, 1302, "checksum"),
    ({"coreCount": 10**30}, 1302, "coreCount"),
    ({"jobPars": "x\x00y"}, 1302, "jobPars"),
    ({"jobPars": {"a": 1}}, 1302, "jobPars"),
    ({"transformation": ["a"]}, 1302, "transformation"),
    ({"maxWalltime": "soon"}, 1302, "maxWalltime"),
    ({"outFiles": "a/../../b", "realDatasets": "d"}, 1371, "contains '/'"),
    ({"outFiles": "w" * 300, "realDatasets": "d"}, 1190, "300 characters"),
    ({"logFile": "../log.tgz", "outFiles": "../log.tgz", "realDatasets": "d"}, 1371, "log"),
    ({"writeToFile": "../../evil:content"}, 1371, "writeToFile"),
    ({"outFiles": ",".join(f"f{n}" for n in range(200_000))}, 1302, "outFiles"),
]


@pytest.mark.parametrize(("fields", "code", "words"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_field_fails_the_job_with_its_own_code(farm: Farm, fields: dict[str, Any], code: int, words: str) -> None:
    mark = farm.directory / "ran"
    job = farm.server.submit({**base(farm, mark), **fields}, raw=True)
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code), final["pilotErrorDiag"]
    assert words in final["pilotErrorDiag"]
    assert not mark.exists(), "the payload was not run"


def base(farm: Farm, mark: Path) -> dict[str, Any]:
    definition = farm.server.job(farm.submit_job(f"touch {mark}", log=False))["definition"]
    farm.server.kill(definition["PandaID"])
    return {key: value for key, value in definition.items() if key != "PandaID"}


@pytest.mark.parametrize("job_id", ["", "NULL", "12; rm -rf /", "-1", "0", "../../x", None, "9" * 40, {"a": 1}, "1e3",
                                    True])
def test_job_without_a_usable_id_is_refused_in_the_log(farm: Farm, job_id: object) -> None:
    # only a broken server sends this: the answer is replaced as a whole
    jobs = [{"PandaID": job_id, "transformation": "true"}]
    body = {"success": True, "message": "", "data": {"StatusCode": 0, "jobs": jobs}}
    farm.server.faults.add("acquire_jobs", "body", text=json.dumps(body))
    job = farm.submit_job()
    pilot = ended_well(farm.run_pilot("--server-api", "v1"))
    assert "refused" in pilot.log
    assert farm.final(job)["state"] == "finished", "the next request brings a good job"


@pytest.mark.parametrize("jobs", [[], None, [None], ["x"], [[]], {}, 5, [{}]])
def test_answers_that_hold_no_job_object(farm: Farm, jobs: object) -> None:
    body = {"success": True, "message": "", "data": {"StatusCode": 0, "jobs": jobs}}
    farm.server.faults.add("acquire_jobs", "body", text=json.dumps(body))
    job = farm.submit_job()
    ended_well(farm.run_pilot("--server-api", "v1"))
    assert farm.final(job)["state"] == "finished"


@pytest.mark.parametrize("payload", ["'", '"', "$(", "`", "; exit 3 #", "&& false", "\\", "<<EOF", "\n\n\nexit 4"])
def test_shell_text_of_any_kind_is_the_payloads_own_failure(farm: Farm, payload: str) -> None:
    job = farm.submit_job("cat", jobPars=payload, log=False)
    pilot = ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] in ("finished", "failed")
    if final["state"] == "failed":
        assert int(final["pilotErrorCode"]) == 1305, final["pilotErrorDiag"]
        assert int(final["transExitCode"]) != 0
    assert pilot.process.returncode == 0


@pytest.mark.parametrize(("text", "code"), [
    ("NULL", 1302), ("", 1302), ("/no/such/program", 1346), ("no-such-program-anywhere", 1346), ("/etc/passwd", 1346),
    ("../../bin/true", 1346), ("/bin", 1346)])
def test_transformation_that_is_none(farm: Farm, text: str, code: int) -> None:
    job = farm.submit_job(transformation=text, log=False)
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code), final["pilotErrorDiag"]


def test_definition_with_everything_too_deep(farm: Farm) -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    mark = farm.directory / "ran"
    job = farm.server.submit({**base(farm, mark), "allowNoOutput": deep, "overwriteQueuedata": {"x": deep}}, raw=True)
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] in ("failed", "finished")
