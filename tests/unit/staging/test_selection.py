"""Which tool gets a file: the queue's words for the activity, what each tool says about itself, never its name."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.info.queuedata import QueueData, log_activities, output_activities, stagein_activities
from pilot.staging.stagein import stage_in
from pilot.staging.stageout import stage_out
from pilot.util.cancel import CancelToken
from tests.unit.staging.test_destination import disk
from tests.unit.staging.test_stageout import disk_at
from tests.unit.staging.test_storing import rse

HERE = ("HERE", "root://se//x")


def tools(activities: Any, analysis: bool = False, **queue: Any) -> list[str]:
    described = QueueData.from_raw({"nickname": "Q", **queue})
    return described.copytools_for(activities(described, analysis))


@pytest.mark.parametrize(
    ("table", "inputs", "outputs", "log"),
    [
        ({"pr": ["a"], "pw": ["b"], "pl": ["c"]}, ["a"], ["b"], ["c"]),
        ({"read_lan": ["a"], "write_lan": ["b"]}, ["a"], ["b"], ["b"]),
        ({"read_lan": ["a"], "pr": ["z"], "write_lan": ["b"], "pw": ["z"], "pl": ["c"]}, ["a"], ["b"], ["c"]),
        ({"w": ["b"], "default": ["d"]}, ["d"], ["b"], ["b"]),
        ({"default": ["d", "e"]}, ["d", "e"], ["d", "e"], ["d", "e"]),
        ({"read_lan": [], "default": ["d"]}, ["d"], ["d"], ["d"]),
        ({"pr": ["a"]}, ["a"], ["rucio"], ["rucio"]),
        ({"pr": "a,b"}, ["a", "b"], ["rucio"], ["rucio"]),
        ({}, ["xrdcp"], ["xrdcp"], ["xrdcp"]),
    ],
)
def test_old_and_new_names_of_activities(table: Any, inputs: Any, outputs: Any, log: Any) -> None:
    queue = {"acopytools": table, "copytools": {"xrdcp": {"setup": ""}}}
    assert tools(stagein_activities, **queue) == inputs
    assert tools(output_activities, **queue) == outputs
    assert tools(log_activities, **queue) == log


def test_a_queue_that_names_no_tool_uses_rucio() -> None:
    assert tools(stagein_activities) == ["rucio"]


@pytest.mark.parametrize(
    ("type_", "analysis", "names"),
    [("unified", True, ["a", "b", "c"]), ("unified", False, ["p", "q", "c"]), ("analysis", True, ["p", "q", "c"])],
)
def test_analysis_on_a_unified_queue_has_activities_of_its_own(type_: str, analysis: bool, names: list[str]) -> None:
    table = {"read_lan_analysis": "a", "read_lan": "p", "write_lan_analysis": "b", "write_lan": "q", "pl": "c"}
    found = [tools(which, analysis, acopytools=table, type=type_)[0]
             for which in (stagein_activities, output_activities, log_activities)]
    assert found == names


def test_tools_are_tried_in_the_order_of_the_queue(planned: Any) -> None:
    planned.wanted("a", HERE)
    planned.script.on(PilotException("down", code=1324), tool="second")
    planned.rucio.add("a", ("HERE", "davs://se/x"), HERE)
    stage_in(planned.job, planned.plan("second", "first"), CancelToken())
    assert [(tool, url) for tool, _, url in planned.script.tried] == [("second", "davs://se/x"), ("first", "davs://se/x")]


def test_an_unknown_name_and_a_tool_that_cannot_be_loaded_hand_over_to_the_next(planned: Any) -> None:
    planned.wanted("a", HERE)
    ctx = planned.plan("teleport", "broken", "first", settings={
        "plugins__copytools": {"first": "tests.unit.staging.scripted:First", "broken": "no.such.module:X"}})
    stage_in(planned.job, ctx, CancelToken())
    assert planned.script.tried == [("first", "a", "root://se//x")]


def test_only_unknown_names_are_a_wrong_queue(planned: Any) -> None:
    spec = planned.wanted("a", HERE)
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, planned.plan("teleport", "dccp"), CancelToken())
    assert caught.value.code == 1323
    assert "teleport" in caught.value.detail and "dccp" in caught.value.detail and "use xrdcp" in caught.value.detail
    assert [(record.code, record.state) for record in planned.records] == [(1323, "BAD_COPYTOOL")]
    assert spec.status_code == 1323


@pytest.mark.parametrize(
    ("schemas", "url"),
    [
        ({}, "root://se//x"),
        ({"read_lan": ["davs"]}, "davs://se/x"),
        ({"pr": ["davs"]}, "davs://se/x"),
        ({"default": "davs"}, "davs://se/x"),
        ({"default": "srm,davs"}, "srm://se/x"),
        ({"read_lan": {"first": ["davs"], "default": ["root"]}}, "davs://se/x"),
        ({"read_lan": {"second": ["davs"], "default": ["srm"]}}, "srm://se/x"),
        ({"read_lan": {"second": ["davs"]}, "default": ["srm"]}, "srm://se/x"),
        ({"read_lan": [], "default": {"second": ["srm"]}}, "root://se//x"),
    ],
)
def test_the_queue_chooses_schemes_per_activity_and_tool(planned: Any, schemas: Any, url: str) -> None:
    planned.wanted("a", HERE, ("HERE", "davs://se/x"), ("HERE", "srm://se/x"))
    if url.startswith("srm"):
        planned.rucio.add("a", ("HERE", "srm://se/x"), ("HERE", "davs://se/x"), HERE)
    stage_in(planned.job, planned.plan(acopytools_schemas=schemas), CancelToken())
    assert planned.script.tried == [("first", "a", url)]


@pytest.mark.parametrize("settings_under", ["cp", "mv"])
@pytest.mark.parametrize(("overwrite", "good"), [(True, True), ("yes", True), (False, False), ("no", False)])
def test_settings_of_a_tool_stand_under_the_name_of_the_queue_or_the_tool(
    site: Any, settings_under: str, overwrite: Any, good: bool
) -> None:
    spec = site.output("x.root", b"new", scope="user.jdoe")
    there = site.home / "disk/user/jdoe/7f/01/x.root"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"another")
    queue = {"acopytools": {"default": ["cp"]}, "copytools": {settings_under: {"overwrite": overwrite}},
             "catchall": "mv_final_destination", "astorages": {"write_lan": ["DISK"], "read_lan": ["DISK"]}}
    context = site.context(queue, transfers__overwrite=not good)
    context.storage = lambda _names: {"DISK": disk_at("DISK", f"{site.home}/disk")}
    if good:
        stage_out(site.job, [spec], context, CancelToken(), log=False)
        assert there.read_bytes() == b"new"
    else:
        with pytest.raises(PilotException) as caught:
            stage_out(site.job, [spec], context, CancelToken(), log=False)
        assert caught.value.code == 1221
        assert there.read_bytes() == b"another"


def test_a_tool_gets_its_options_and_pcache_when_the_queue_has_it(planned: Any) -> None:
    planned.wanted("a", HERE)
    ctx = planned.plan(copytools={"first": {"setup": "/site/setup.sh"}}, use_pcache=True)
    stage_in(planned.job, ctx, CancelToken())
    assert dict(planned.script.options["first"]) == {"setup": "/site/setup.sh", "use_pcache": True}


# --- what a tool says about itself -----------------------------------------------------------------------------------
def test_a_tool_without_need_of_replicas_never_asks_the_catalogue(planned: Any) -> None:
    planned.wanted("a")
    stage_in(planned.job, planned.plan("linker"), CancelToken())
    assert planned.rucio.calls == []


def test_a_tool_that_writes_nothing_here_needs_no_space(planned: Any) -> None:
    planned.wanted("a", size=1 << 60)
    stage_in(planned.job, planned.plan("linker", maxwdir=1), CancelToken())
    assert planned.records[0].code == 0


def test_a_bulk_tool_gets_its_files_in_as_many_calls_as_there_are_hands(planned: Any) -> None:
    for number in range(10):
        planned.wanted(f"f{number}", ("HERE", f"root://se//{number}"), size=number)
    stage_in(planned.job, planned.plan("bulky", settings={"transfers__parallel": 2}), CancelToken())
    assert sorted(lfn for _, lfn, _ in planned.script.tried) == [f"f{number}" for number in range(10)]
    assert sorted(planned.script.finished) == sorted(spec.lfn for spec in planned.job.indata)


def test_one_bad_file_of_a_bulk_tool_costs_no_other(planned: Any) -> None:
    for number in range(4):
        planned.wanted(f"f{number}", ("HERE", f"root://se//{number}"))
    planned.script.on(PilotException("gone", code=1331), lfn="f2")
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, planned.plan("bulky"), CancelToken())
    assert caught.value.code == 1331
    assert [spec.status for spec in planned.job.indata] == ["transferred", "transferred", "failed", "transferred"]


def test_a_tool_that_needs_protocols_gets_a_url_at_stage_out_and_others_none(planned: Any) -> None:
    ctx = planned.plan("first", "second", astorages={"write_lan": ["DISK"], "read_lan": ["DISK"]})
    ctx.storage = lambda _names: {"DISK": disk()}
    planned.script.on(PilotException("down", code=1137), tool="first")
    planned.output("x.root", scope="user.jdoe")
    stage_out(planned.job, planned.job.outdata, ctx, CancelToken(), log=False)
    assert planned.script.tried == [("first", "x.root", ""),
                                    ("second", "x.root", "davs://se:443/pnfs/rucio/user/jdoe/7f/01/x.root")]


@pytest.mark.parametrize(
    ("endpoint", "options", "url"),
    [
        ("MINE", {}, "davs://lan:443/rucio/user/jdoe/7f/01/x.root"),
        ("FAR", {}, "davs://wan:443/rucio/user/jdoe/7f/01/x.root"),
        ("MINE", {"input_dir": "/given"}, "file:///given/user/jdoe/7f/01/x.root"),
    ],
)
def test_a_tool_that_builds_urls_gets_the_endpoints_door_for_its_domain(
    planned: Any, endpoint: str, options: Any, url: str
) -> None:
    doors = {"read_lan": "davs://lan:443", "read_wan": "davs://wan:443"}
    planned.wanted("x.root", scope="user.jdoe", ddmendpoint=endpoint)
    ctx = planned.plan("builder", options=options, astorages={"read_lan": ["MINE"]})
    ctx.storage = lambda names: {name: rse(name, **doors) for name in names}
    stage_in(planned.job, ctx, CancelToken())
    assert planned.script.tried == [("builder", "x.root", url)]
    assert planned.rucio.calls == []
