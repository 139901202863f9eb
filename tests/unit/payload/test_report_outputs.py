"""The list of outputs in a job report against the job's own (data management document 7.1)."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.jobreportdata import parse_job_report
from pilot.payload.reportoutputs import compare_outputs, usable_guids
from pilot.user.atlas.report import report_policy

G1, G2 = "6A1B2C3D-0000-4000-8000-000000000001", "6a1b2c3d-0000-4000-8000-000000000002"


def make_job(*names: str, optional: tuple[str, ...] = (), **fields: Any) -> Job:
    return Job("1", outdata=[FileSpec(name, filetype="output") for name in names],
               logdata=[FileSpec("log.tgz", filetype="log")], allownooutput=frozenset(optional), **fields)


def compare(job: Job, *files: dict[str, Any], demanded: bool = True) -> tuple[list[str], list[str]]:
    data = parse_job_report({"files": {"output": [{"subFiles": list(files)}]}})
    return tuple(compare_outputs(job, data, demanded=demanded))  # type: ignore[return-value]


@pytest.mark.parametrize(("files", "optional", "demanded", "dropped", "missing"), [
    ([{"name": "a"}, {"name": "b"}], (), True, [], []),
    ([{"name": "a"}], (), True, [], ["b"]),
    ([{"name": "a"}], (), False, [], []),  # the KeyError of the existing pilots
    ([{"name": "a"}], ("b",), True, ["b"], []),
    ([{"name": "a"}], ("a", "b"), False, ["b"], []),
    ([], (), True, [], ["a", "b"]),
    ([], (), False, [], []),
    ([], ("a", "b"), True, ["a", "b"], []),
    ([], ("a",), True, ["a"], ["b"]),
    ([{"name": "a", "nentries": 0}, {"name": "b", "nentries": None}], (), True, [], []),
    ([{"name": "a", "nentries": 0}, {"name": "b", "nentries": None}], ("a", "b"), True, ["a", "b"], []),
    ([{"name": "a", "nentries": 5}, {"name": "b", "nentries": "UNDEFINED"}], ("a", "b"), True, [], []),
    ([{"name": "a"}, {"name": "b"}, {"name": "unknown"}, {"name": "log.tgz"}], (), True, [], []),
    ([{"name": "a._1"}, {"name": "a._2"}, {"name": "b"}], (), True, [], []),
])
def test_each_case(files: list[dict[str, Any]], optional: tuple[str, ...], demanded: bool, dropped: list[str],
                   missing: list[str]) -> None:
    job = make_job("a", "b", optional=optional)
    assert compare(job, *files, demanded=demanded) == (dropped, missing)


def test_a_report_without_a_list_says_nothing() -> None:
    for tree in ({}, {"files": {}}, {"files": {"output": "x"}}):
        assert compare_outputs(make_job("a"), parse_job_report(tree), demanded=True) == ([], [])
    assert compare_outputs(make_job("a"), parse_job_report({"files": {"output": []}}), demanded=True) == ([], ["a"])


def test_outputs_that_stand_for_others_are_not_looked_up() -> None:
    job = make_job("regex|out.*", "b")
    job.outdata[1].pattern = "b.*"
    assert compare(job) == ([], [])
    assert compare(make_job("a", is_hpo=True)) == ([], [])


def test_many_outputs_take_no_time() -> None:
    names = [f"out.{number}.root" for number in range(20_000)]
    assert compare(make_job(*names), *({"name": f"{name}._1"} for name in names)) == ([], [])


def test_guids_have_to_be_guids_and_different() -> None:
    pairs = [("a", G1), ("b", G2), ("c", "abc"), ("d", ""), ("e", G1), ("f", G1.lower()), ("g", "0" * 36),
             ("h", "00000000-0000-0000-0000-000000000000"), ("i", "../../etc")]
    assert usable_guids(pairs) == {"a": G1, "b": G2}


@pytest.mark.parametrize(("fields", "demanded", "required"), [
    ({"transformation": "Reco_tf.py"}, True, True),
    ({"transformation": "Archive_tf.py"}, True, False),
    ({"transformation": "x/Archive_tf.py"}, True, False),
    ({"transformation": "Reco_tf.py", "is_eventservice": True}, True, False),
    ({"transformation": "http://pandaserver.cern.ch/trf/user/runGen-00-00-02"}, False, False),
])
def test_what_atlas_demands(fields: dict[str, Any], demanded: bool, required: bool) -> None:
    policy = report_policy(Job("1", **fields))
    assert (policy.demands_outputs, policy.required) == (demanded, required)
    assert policy.judges and policy.lists_outputs and policy.old_files and policy.compact
