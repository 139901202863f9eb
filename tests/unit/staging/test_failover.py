"""After a failure: the next replica, the next tool; why each attempt failed is kept, and one cause is reported."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import Transfer
from pilot.info.filespec import FileSpec
from pilot.staging.failures import Failures, named
from pilot.staging.stagein import stage_in
from pilot.staging.stageout import stage_out
from pilot.util.cancel import CancelledError, CancelToken
from tests.unit.staging.scripted import failure

A, B, C = ("HERE", "root://se//a"), ("HERE", "davs://se/b"), ("OTHER", "root://other//c")


def refused(planned: Any, ctx: Any) -> PilotException:
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, ctx, CancelToken())
    return caught.value


def sent(planned: Any, ctx: Any) -> None:
    stage_out(planned.job, planned.job.outdata, ctx, CancelToken(), log=False)


def unsent(planned: Any, ctx: Any) -> PilotException:
    with pytest.raises(PilotException) as caught:
        sent(planned, ctx)
    return caught.value


# --- replicas, then tools --------------------------------------------------------------------------------------------
def test_the_next_replica_then_the_next_tool(planned: Any) -> None:
    spec = planned.wanted("x", A, B, C)
    planned.script.on(failure(1331, "gone"), tool="first", url="root://se//a")
    planned.script.on(failure(1324, "refused"), tool="first")
    planned.script.on(None, tool="second")
    stage_in(planned.job, planned.plan("first", "second", allow_wan=True), CancelToken())
    assert planned.script.tried == [
        ("first", "x", "root://se//a"), ("first", "x", "davs://se/b"), ("first", "x", "root://other//c"),
        ("second", "x", "davs://se/b")]
    assert (spec.status, spec.status_code, spec.turl, spec.ddmendpoint) == ("transferred", 0, "davs://se/b", "HERE")


def test_every_attempt_is_recorded_with_a_transfer_id_of_its_own(
    planned: Any, caplog: pytest.LogCaptureFixture
) -> None:
    planned.wanted("x", A, B)
    planned.script.on(failure(1331, "gone"), tool="first", url="root://se//a")
    planned.script.on(failure(1324, "refused", state="SERVICE_ERROR"), tool="first", url="davs://se/b")
    stage_in(planned.job, planned.plan("first", "second"), CancelToken())
    rows = [(r.tool, r.url, r.code, r.state, r.attempt, r.transfer_id) for r in planned.records]
    assert rows == [
        ("first", "root://se//a", 1331, "COPY_ERROR", 1, "42.0.in.x.1"),
        ("first", "davs://se/b", 1324, "SERVICE_ERROR", 2, "42.0.in.x.2"),
        ("second", "davs://se/b", 0, "DONE", 3, "42.0.in.x.3")]
    for number in (1, 2):
        assert f"[42.0.in.x.{number}]" in caplog.text


def test_the_place_that_served_is_the_one_that_is_remembered(planned: Any) -> None:
    planned.rucio.add("x", A, C, ("OTHER", "srm://other/c"))
    spec = planned.wanted("x")
    planned.script.on(failure(1331), url="root://se//a")
    stage_in(planned.job, planned.plan(allow_wan=True), CancelToken())
    assert (spec.turl, spec.surl, spec.ddmendpoint, spec.domain) == (
        "root://other//c", "srm://other/c", "OTHER", "wan")


def test_the_text_has_the_reason_of_each_attempt_the_first_code_counts(planned: Any) -> None:
    spec = planned.wanted("x", A, B)
    planned.script.on(failure(1331, "gone"), tool="first", url="root://se//a")
    planned.script.on(failure(1324, "refused"), tool="first", url="davs://se/b")
    planned.script.on(failure(1151, "silent"), tool="second")
    error = refused(planned, planned.plan("first", "second"))
    assert error.code == spec.status_code == 1331
    assert error.detail == (
        "gone [42.0.in.x.1]; then: refused [42.0.in.x.2]; then: silent [42.0.in.x.3]"
        ":failed to transfer files using copytools=['first', 'second']")


def test_equal_reasons_are_told_once(planned: Any) -> None:
    planned.wanted("x", A, B)
    planned.script.on(failure(1324, "refused"))
    error = refused(planned, planned.plan())
    assert error.detail.startswith("refused [42.0.in.x.1, 42.0.in.x.2]:failed")


def test_a_file_that_came_after_all_lends_its_failure_to_nobody(planned: Any) -> None:
    planned.wanted("first", A)
    planned.wanted("second", A)
    planned.rucio.add("first", A, B)
    planned.script.on(failure(1171, "wrong bytes"), lfn="first", tool="first", url="root://se//a")
    planned.script.on(failure(1331, "gone"), lfn="second")
    error = refused(planned, planned.plan())
    assert error.code == 1331
    assert "wrong bytes" not in error.detail
    assert "1 of 2 files failed" in error.detail


@pytest.mark.parametrize("code", [1098, 1165, 1191, 1314, 1319, 1341, 1342, 1371])
def test_what_another_replica_cannot_mend_is_not_tried_again(planned: Any, code: int) -> None:
    planned.wanted("x", A, B)
    planned.script.on(failure(code))
    assert refused(planned, planned.plan()).code == code
    assert len(planned.script.tried) == 1


@pytest.mark.parametrize("code", [1099, 1145, 1151, 1163, 1171, 1242, 1316, 1324, 1327, 1331, 1338, 1362, 1366])
def test_what_another_replica_may_mend_is_tried_there(planned: Any, code: int) -> None:
    spec = planned.wanted("x", A, B)
    planned.script.on(failure(code), url="root://se//a")
    stage_in(planned.job, planned.plan(), CancelToken())
    assert spec.turl == "davs://se/b"


def test_an_unexpected_exception_of_a_tool_costs_its_file_only_and_has_its_text(planned: Any) -> None:
    planned.wanted("x", A)
    planned.wanted("y", A)
    planned.script.on(ValueError("a bug"), lfn="x")
    error = refused(planned, planned.plan())
    assert error.code == 1099
    assert "copytool first: ValueError: a bug" in error.detail
    assert [spec.status for spec in planned.job.indata] == ["failed", "transferred"]


def test_a_refused_login_is_the_cause_wherever_it_stands(planned: Any) -> None:
    planned.wanted("x", A, B)
    planned.script.on(failure(1324, "down"), url="root://se//a")
    planned.script.on(failure(1099, "Cannot authenticate at se"), url="davs://se/b")
    error = refused(planned, planned.plan())
    assert error.code == 1338
    assert error.detail.startswith("Cannot authenticate at se")
    assert "then: down" in error.detail


@pytest.mark.parametrize(
    ("texts", "inward", "code"),
    [
        (["down", "Cannot authenticate"], True, 1338),
        (["down", "Cannot authenticate"], False, 1383),
        (["down", "bad queue configuration - x"], True, 1341),
        (["bad queue configuration - x", "Cannot authenticate"], False, 1383),
        (["down", "up"], True, 1324),
    ],
)
def test_the_choice_of_the_cause(texts: list[str], inward: bool, code: int) -> None:
    from pilot.copytool.base import Direction

    spec = FileSpec("x")
    failures = Failures(Direction.IN if inward else Direction.OUT)
    for text in texts:
        failures.add(failure(1324, text), spec)
    assert failures.cause([spec], ["tool"]).code == code


def test_a_tool_that_fails_as_a_whole_stands_in_the_story_of_the_file(planned: Any) -> None:
    planned.wanted("x", A)
    planned.script.on(failure(1324, "refused"))
    error = refused(planned, planned.plan("teleport", "first"))
    assert error.code == 1323
    assert "'teleport'" in error.detail and "then: refused [42.0.in.x.1]" in error.detail


def test_a_missing_library_gives_way_to_what_the_next_tool_found_out(planned: Any) -> None:
    planned.wanted("x", A)
    planned.script.on(failure(1331, "gone"))
    plugins = {"first": "tests.unit.staging.scripted:First", "broken": "no.such.module:X"}
    error = refused(planned, planned.plan("broken", "first", settings={"plugins__copytools": plugins}))
    assert error.code == 1331
    assert error.detail.startswith("gone") and "then: copytool 'broken'" in error.detail
    assert refused(planned, planned.plan("broken", settings={"plugins__copytools": plugins})).code == 1342


def test_the_cause_does_not_depend_on_which_thread_was_faster() -> None:
    from pilot.copytool.base import Direction

    files = [FileSpec("a"), FileSpec("b")]
    for order in (files, files[::-1]):
        failures = Failures(Direction.IN)
        for spec in order:
            failures.add(failure(1300 + ord(spec.lfn), spec.lfn), spec)
        assert failures.cause(files, []).code == 1397


def test_one_failure_that_stands_for_several_files_has_the_id_of_each() -> None:
    common = failure(1324, "down")
    assert [named(common, name).detail for name in "12"] == ["down [1]", "down [2]"]
    assert common.detail == "down"


# --- wrong checksums -------------------------------------------------------------------------------------------------
def test_a_wrong_checksum_goes_to_the_next_replica_and_nobody_is_declared(planned: Any) -> None:
    spec = planned.wanted("x", A, B)
    planned.script.on(failure(1171, "wrong"), url="root://se//a")
    stage_in(planned.job, planned.plan(), CancelToken())
    assert len(planned.script.tried) == 2
    assert spec.turl == "davs://se/b"
    assert [op for op, _ in planned.rucio.calls] == ["list_replicas"]


@pytest.mark.parametrize(("setting", "op"), [("suspicious", "declare_suspicious"), ("bad", "declare_bad")])
@pytest.mark.parametrize("code", [1171, 1145])
def test_a_checksum_that_is_wrong_twice_is_declared_where_the_setting_says_so(
    planned: Any, setting: str, op: str, code: int
) -> None:
    planned.wanted("x", A, B)
    planned.script.on(failure(code, "wrong"), url="root://se//a")
    stage_in(planned.job, planned.plan(settings={"transfers__declare_replicas": setting}), CancelToken())
    assert [url for _, _, url in planned.script.tried] == ["root://se//a", "root://se//a", "davs://se/b"]
    (declared,) = [args for name, args in planned.rucio.calls if name == op]
    assert declared["pfns"] == ["root://se//a"]
    assert "wrong" in declared["reason"]


def test_a_checksum_that_was_wrong_once_is_the_networks_fault(planned: Any) -> None:
    planned.wanted("x", A, B)
    planned.script.on(failure(1171, "wrong"), None, url="root://se//a")
    stage_in(planned.job, planned.plan(settings={"transfers__declare_replicas": "bad"}), CancelToken())
    assert [url for _, _, url in planned.script.tried] == ["root://se//a", "root://se//a"]
    assert [op for op, _ in planned.rucio.calls] == ["list_replicas"]


@pytest.mark.parametrize("known", [{"adler32": "0a1b2c3d"}, {"bytes": 77}])
def test_nothing_is_declared_where_job_and_catalogue_do_not_agree(planned: Any, known: dict[str, Any]) -> None:
    planned.rucio.add("x", A, B, **known)
    planned.wanted("x")
    planned.script.on(failure(1171, "wrong"))
    refused(planned, planned.plan(settings={"transfers__declare_replicas": "bad"}))
    assert [op for op, _ in planned.rucio.calls] == ["list_replicas"]
    assert len(planned.script.tried) == 2


def test_a_failure_of_the_declaration_costs_nothing(planned: Any, caplog: pytest.LogCaptureFixture) -> None:
    planned.wanted("x", A, B)

    def wrong(order: Transfer, _token: Any, _progress: Any) -> Any:
        planned.rucio.problem = PilotException("no right to declare", code=1316)
        return failure(1171, "wrong")

    planned.script.on(wrong, url="root://se//a")
    stage_in(planned.job, planned.plan(settings={"transfers__declare_replicas": "bad"}), CancelToken())
    assert "cannot declare root://se//a" in caplog.text


# --- attempts to store -----------------------------------------------------------------------------------------------
def test_an_output_is_tried_as_often_as_the_option_says_with_growing_pauses(
    planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(CancelToken, "wait", lambda _token, timeout=None: bool(pauses.append(timeout)))
    planned.output("x")
    planned.script.on(failure(1152, "slow"), failure(1152, "slow"), None)
    sent(planned, planned.plan(options={"stageout_attempts": 3}))
    assert [record.code for record in planned.records] == [1152, 1152, 0]
    assert len(pauses) == 2
    assert 1.0 <= pauses[0] <= 2.0 <= pauses[1] <= 4.0


def test_one_attempt_is_the_default(planned: Any) -> None:
    planned.output("x")
    planned.script.on(failure(1152, "slow"))
    assert unsent(planned, planned.plan()).code == 1152
    assert len(planned.records) == 1


@pytest.mark.parametrize("code", [1103, 1163, 1221, 1364, 1383, 1098, 1341])
def test_what_the_same_storage_will_refuse_again_is_not_repeated(planned: Any, code: int) -> None:
    planned.output("x")
    planned.script.on(failure(code))
    assert unsent(planned, planned.plan(options={"stageout_attempts": 5})).code == code
    assert len(planned.records) == 1


def test_the_pause_before_another_attempt_gives_way_to_a_cancellation(planned: Any) -> None:
    planned.output("x")
    token = CancelToken()

    def first(_order: Transfer, _token: Any, _progress: Any) -> Any:
        return failure(1152, "slow")

    def record(entry: Any) -> None:
        planned.records.append(entry)
        token.cancel(1201, "SIGTERM")

    planned.script.on(first)
    ctx = planned.plan(options={"stageout_attempts": 2})
    ctx.record = record
    with pytest.raises(CancelledError) as caught:
        stage_out(planned.job, planned.job.outdata, ctx, token, log=False)
    assert caught.value.code == 1201
    assert len(planned.script.tried) == 1


def test_the_remains_of_an_attempt_may_be_replaced_by_the_next(planned: Any) -> None:
    planned.output("x")
    half = failure(1152, "half")
    half.remains = True
    planned.script.on(half, None)
    sent(planned, planned.plan(options={"stageout_attempts": 2}))
    assert [order.overwrite for _, order in planned.script.orders] == [False, True]


def test_an_output_that_vanished_is_tried_with_no_other_tool(planned: Any) -> None:
    planned.output("x")
    planned.script.on(failure(1165, "no such file"), tool="first")
    assert unsent(planned, planned.plan("first", "second")).code == 1165
    assert {tool for tool, _, _ in planned.script.tried} == {"first"}


def test_what_cannot_be_announced_counts_as_not_stored(planned: Any) -> None:
    spec = planned.output("x")
    planned.script.finish = PilotException("output.list cannot be written", code=1137)
    error = unsent(planned, planned.plan())
    assert error.code == 1137
    assert "output.list cannot be written" in error.detail
    assert spec.status == "failed"


# --- refused before the first copy -----------------------------------------------------------------------------------
def test_a_group_that_a_tool_refuses_is_recorded_file_by_file(planned: Any) -> None:
    planned.wanted("x", A)
    planned.wanted("y", A)
    planned.script.prepare = failure(1341, "bad queue configuration - first")
    assert refused(planned, planned.plan()).code == 1341
    assert sorted((r.lfn, r.tool, r.code, r.transfer_id) for r in planned.records) == [
        ("x", "first", 1341, "42.0.in.x.1"), ("y", "first", 1341, "42.0.in.y.1")]


def test_raythena_brings_its_files_itself(planned: Any) -> None:
    spec = planned.wanted("x")
    stage_in(planned.job, planned.plan(options={"executor_type": "raythena"}), CancelToken())
    assert (spec.status, planned.script.tried) == ("no_transfer", [])


def test_a_signed_url_is_masked_in_the_text_that_goes_to_server_and_store() -> None:
    from pilot.copytool.base import Direction
    from pilot.copytool.causes import transfer_failure

    about = "f: gfal https://se/f?X-Amz-Signature=abcdef0123 -> /work/f"
    failure = transfer_failure(Direction.IN, "Connection refused", about=about)
    assert failure.code == 1324
    assert "abcdef0123" not in failure.detail and "https://se/f" in failure.detail
