"""Sizes, space, time and threads: limits before the first byte, before each file, and while bytes move."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import Direction, Transfer
from pilot.staging import stagein
from pilot.staging.group import transfer_timeout
from pilot.staging.stagein import check_sizes, check_space, stage_in
from pilot.util.cancel import CancelledError, CancelToken
from tests.unit.staging.scripted import failure

MB = 1 << 20
HERE = ("HERE", "root://se//x")


def orders(*sizes: int) -> list[Transfer]:
    return [Transfer(Direction.IN, f"f{number}", Path("/x"), size=size) for number, size in enumerate(sizes)]


# --- sizes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("sizes", "limit", "good"), [
    ((5, 5), 10, True), ((5, 6), 10, False), ((11,), 10, False), ((1 << 60,), 0, True), ((), 10, True)])
def test_the_sum_of_the_inputs_has_a_limit_and_zero_is_none(sizes: Any, limit: int, good: bool) -> None:
    if good:
        check_sizes(orders(*sizes), limit)
        return
    with pytest.raises(PilotException) as caught:
        check_sizes(orders(*sizes), limit)
    assert caught.value.code == 1168
    assert f"({len(sizes)}). total file size={sum(sizes)} B > maxinputsize={limit} B" in caught.value.detail


def test_a_job_whose_inputs_are_too_large_is_refused_before_the_first_copy(planned: Any) -> None:
    for name in "ab":
        planned.wanted(name, HERE, size=600 * 1024)
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, planned.plan(maxwdir=1), CancelToken())
    assert caught.value.code == 1168
    assert planned.script.tried == []
    assert [(record.lfn, record.code) for record in planned.records] == [("a", 1168), ("b", 1168)]


def test_what_rucio_says_of_the_size_counts_where_the_job_does_not_say(planned: Any) -> None:
    planned.wanted("a", size=0)
    planned.rucio.add("a", HERE, bytes=2 * MB)
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, planned.plan(maxwdir=1), CancelToken())
    assert caught.value.code == 1168


# --- space -----------------------------------------------------------------------------------------------------------
def test_inputs_and_the_reserve_have_to_fit(tmp_path: Path) -> None:
    check_space(orders(5), tmp_path, 0, {})
    for given in (orders(1 << 60), 0), (orders(5), 1 << 60):
        with pytest.raises(PilotException) as caught:
            check_space(given[0], tmp_path, given[1], {})
        assert caught.value.code == 1098
        assert str(tmp_path) in caught.value.detail


def test_a_pod_has_no_more_than_its_limit_less_what_it_has_used(tmp_path: Path) -> None:
    pod = {"storageLimitMiB": "3", "storageRequestMiB": "1"}
    (tmp_path / "used").write_bytes(bytes(MB))
    check_space(orders(2 * MB), tmp_path, 0, pod)
    with pytest.raises(PilotException) as caught:
        check_space(orders(2 * MB + 1), tmp_path, 0, pod)
    assert "only have 2097152 B" in caught.value.detail


def test_a_queue_with_maxinputsize_minus_one_has_no_checks_of_size_and_space(planned: Any) -> None:
    planned.wanted("a", HERE, size=1 << 60)
    stage_in(planned.job, planned.plan(maxinputsize=-1, maxwdir=1), CancelToken())
    assert planned.job.indata[0].status == "transferred"


@pytest.mark.parametrize("tool", ["first", "bulky"])
def test_space_is_looked_at_again_before_each_copy(planned: Any, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    for name, size in (("a", 900), ("b", 500), ("c", 100)):
        planned.wanted(name, HERE, size=size)
    monkeypatch.setattr(stagein, "free_bytes", lambda _directory: 400)
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, planned.plan(tool, settings={"transfers__parallel": 1}), CancelToken())
    assert caught.value.code == 1098
    assert "not enough local space for a (need 900 B, but only have 400 B in" in caught.value.detail
    assert [lfn for _, lfn, _ in planned.script.tried] == ["c"]
    assert {record.lfn: record.state for record in planned.records} == {"a": "NO_SPACE", "b": "NO_SPACE", "c": "DONE"}


# --- time ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("size", "seconds"), [
    (0, 400), (999_999, 400), (1_000_000, 401), (5_000_000_000, 5400), (10_400_000_000, 10800), (1 << 50, 10800)])
def test_the_time_out_grows_with_the_size_up_to_three_hours(size: int, seconds: int) -> None:
    assert transfer_timeout(400, size) == seconds


def test_each_order_has_its_time_out(planned: Any) -> None:
    planned.wanted("a", HERE, size=3_000_000)
    stage_in(planned.job, planned.plan(settings={"transfers__stagein_timeout_base": 7}), CancelToken())
    assert planned.script.orders[0][1].timeout == 10


def test_a_copy_that_cannot_tell_of_progress_is_broken_off_when_its_time_is_up(planned: Any) -> None:
    planned.wanted("a", HERE, ("HERE", "root://se//second"))

    def hang(order: Transfer, token: CancelToken, _progress: Any) -> Any:
        token.wait()
        raise CancelledError(token.reason, code=token.code)

    planned.script.on(hang, url="root://se//x")
    stage_in(planned.job, planned.plan(settings={"transfers__stagein_timeout_base": 1}), CancelToken())
    assert [(record.code, record.state) for record in planned.records] == [(1151, "CP_TIMEOUT"), (0, "DONE")]
    assert "not done within 1 s for 5 B" in planned.records[0].text


# --- threads ---------------------------------------------------------------------------------------------------------
class Crowd:
    """A copy that waits until as many as expected run side by side, and counts."""

    def __init__(self, expected: int) -> None:
        self.expected, self.inside, self.most = expected, 0, 0
        self.changed = threading.Condition()

    def __call__(self, order: Transfer, token: CancelToken, progress: Any) -> None:
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.expected, 20)
            self.inside -= 1


@pytest.mark.parametrize("parallel", [1, 3])
def test_as_many_files_move_at_a_time_as_the_setting_says(planned: Any, parallel: int) -> None:
    for number in range(8):
        planned.wanted(f"f{number}", HERE)
    crowd = Crowd(parallel)
    planned.script.on(crowd)
    stage_in(planned.job, planned.plan(settings={"transfers__parallel": parallel}), CancelToken())
    assert crowd.most == parallel


def test_the_largest_file_goes_first(planned: Any) -> None:
    for name, size in (("small", 1), ("large", 300), ("middle", 20)):
        planned.wanted(name, HERE, size=size)
    stage_in(planned.job, planned.plan(settings={"transfers__parallel": 1}), CancelToken())
    assert [lfn for _, lfn, _ in planned.script.tried] == ["large", "middle", "small"]


def test_a_file_that_is_tried_again_waits_behind_those_that_were_not_tried_yet(planned: Any) -> None:
    for name, size in (("a", 3), ("b", 2), ("c", 1)):
        planned.wanted(name, HERE, ("HERE", "davs://se/x"), size=size)
    planned.script.on(failure(1324), lfn="a", tool="first", url="root://se//x")
    stage_in(planned.job, planned.plan(settings={"transfers__parallel": 1}), CancelToken())
    assert [lfn for _, lfn, _ in planned.script.tried] == ["a", "b", "c", "a"]


@pytest.mark.parametrize("tool", ["first", "bulky", "linker"])
def test_a_cancellation_ends_copies_of_every_kind_of_tool(planned: Any, tool: str) -> None:
    for number in range(4):
        planned.wanted(f"f{number}", HERE)
    token = CancelToken()
    begun = threading.Event()

    def hang(_order: Transfer, mine: CancelToken, _progress: Any) -> Any:
        begun.set()
        mine.wait()
        raise CancelledError(mine.reason, code=mine.code)

    planned.script.on(hang)
    threading.Thread(target=lambda: begun.wait(20) and token.cancel(1201, "SIGTERM"), daemon=True).start()
    with pytest.raises(CancelledError) as caught:
        stage_in(planned.job, planned.plan(tool), token)
    assert caught.value.code == 1201
    assert {record.state for record in planned.records} == {"STAGEIN_ATTEMPT_FAILED"}


# --- checksum types --------------------------------------------------------------------------------------------------
def test_a_checksum_type_that_nobody_knows_starts_no_copy(planned: Any) -> None:
    spec = planned.wanted("a", HERE, checksum={"sha512": "1"})
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, planned.plan(), CancelToken())
    assert (caught.value.code, spec.status_code, planned.script.tried) == (1314, 1314, [])
    assert "checksum type sha512 of a, known are adler32, md5" in caught.value.detail
    assert planned.records[0].state == "UNKNOWN_CHECKSUM_TYPE"


@pytest.mark.parametrize("checksum", [{"adler32": "1", "sha512": "2"}, {"sha512": "", "md5": "3"}, {"sha512": ""}, {}])
def test_a_known_type_beside_an_unknown_one_is_enough(planned: Any, checksum: dict[str, str]) -> None:
    planned.wanted("a", HERE, checksum=checksum)
    stage_in(planned.job, planned.plan(), CancelToken())
    assert planned.job.indata[0].status == "transferred"
