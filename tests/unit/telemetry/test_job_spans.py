"""A job's rows in the PilotDB as a tree of spans."""

from __future__ import annotations

from typing import Any, Dict, List

from pilot.store.pilotdb import ErrorRow, JobRow
from pilot.telemetry.spans import Facts, Span, job_span

NO_FACTS = Facts()
ROW = JobRow("6500000001", 3, "token", 1000.0, "done", "", "", "", "run.sh", 0, "", 1100.0)
GOOD = [(1001.0, "accepted", "stagein", ""), (1005.0, "staged_in", "payload", ""),
        (1080.0, "payload_ok", "stageout", ""), (1090.0, "staged_out", "reporting", ""),
        (1091.0, "reported", "cleaning", "finished"), (1092.0, "cleaned", "done", "")]


def transfer(**values: Any) -> Dict[str, object]:
    return {"lfn": "a", "direction": "stage-in", "tool": "mv", "at": 1002.0, "seconds": 2.0, "bytes": 10,
            "status": "DONE", "code": 0, "detail": "OK", "checksum": "", "transfer_id": "6500000001.3.in.a.1", **values}


def make(story: Any = GOOD, transfers: Any = (), errors: Any = (), primary: Any = (0, ""), facts: Facts = NO_FACTS,
         row: JobRow = ROW) -> Span:
    return job_span(row, facts, story, list(transfers), list(errors), primary, 2000.0, len(transfers))


def names(span: Span) -> List[str]:
    return [child.name for child in span.children]


def test_a_good_job_has_its_stages_one_after_the_other() -> None:
    span = make(facts=Facts("77", "managed", {"getjob": 4.0}))
    assert names(span) == ["getjob", "validate", "stagein", "payload", "stageout", "report", "clean"]
    assert (span.start, span.end, span.error) == (996.0, 1092.0, "")
    assert all(first.end == second.start for first, second in zip(span.children, span.children[1:]))
    assert span.attributes["panda.job.state"] == "finished" and span.attributes["panda.task.id"] == "77"
    assert span.attributes["panda.job.attempt"] == 3 and span.attributes["panda.payload.exit_code"] == 0


def test_a_failed_stage_says_so_and_the_job_has_the_root_cause() -> None:
    story = [GOOD[0], (1003.0, "stagein_failed", "stageout", "no replica"), *GOOD[3:4],
             (1091.0, "reported", "cleaning", "failed"), GOOD[-1]]
    span = make(story, errors=[ErrorRow(1003.0, 1099, "no replica", "", "", "", None)], primary=(1099, "no replica"))
    assert [child.name for child in span.children if child.error] == ["stagein"]
    assert span.error == "no replica" and span.attributes["panda.error.code"] == 1099
    assert span.attributes["panda.errors"] == "1099" and span.attributes["panda.job.state"] == "failed"


def test_a_kill_is_an_event_of_the_stage_that_it_hits() -> None:
    story = [*GOOD[:2], (1010.0, "kill", "payload", "the server sent tobekilled"),
             (1012.0, "payload_failed", "stageout", ""), *GOOD[3:]]
    payload = make(story).children[3]
    assert [(event.name, event.text) for event in payload.events] == [("kill", "the server sent tobekilled")]
    assert payload.error == "payload_failed"


def test_a_job_that_did_not_end_is_cut_off_now() -> None:
    span = make(GOOD[:2], row=ROW._replace(state="payload", exit_code=None))
    assert (names(span)[-1], span.children[-1].end, span.children[-1].error) == ("payload", 2000.0, "it had not ended")
    assert "panda.payload.exit_code" not in span.attributes


def test_transfers_and_parts_stand_below_their_stage() -> None:
    facts = Facts(seconds={"setup": 1.0, "payload": 70.0, "log": 2.0},
                  began={"setup": 1006.0, "payload": 1008.0, "log": 1088.0})
    moved = [transfer(), transfer(direction="stage-out", at=1081.0), transfer(direction="log", at=1089.0, seconds=-1.0),
             transfer(at=1003.0, code=1151, detail="time-out", status="FAILED")]
    span = make(facts=facts, transfers=moved)
    stages = {child.name: child for child in span.children}
    assert [child.error for child in stages["stagein"].children] == ["", "time-out"]
    assert names(stages["payload"]) == ["setup", "run"]
    assert names(stages["stageout"]) == ["transfer", "log", "transfer"]
    assert all(child.end >= child.start for child in stages["stageout"].children)
    assert stages["stagein"].children[0].attributes["panda.transfer.id"] == "6500000001.3.in.a.1"


def test_odd_rows_and_a_clock_that_was_set_back_harm_nobody() -> None:
    span = make([(900.0, "accepted", "payload", ""), (800.0, "payload_ok", "stageout", "")],
                transfers=[transfer(at=None, seconds=None, bytes=None, code=None)])
    assert all(child.end >= child.start for child in span.children) and span.end >= span.start
