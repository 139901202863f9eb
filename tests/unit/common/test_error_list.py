"""Which of a job's errors is reported: the root cause, whatever came first (ATLASPANDA-282)."""

from __future__ import annotations

import itertools

import pytest

from pilot.common.errorcodes import ERROR_TABLE
from pilot.common.errors import STAGE_OUT_RANK, ErrorList

# (errors, payload succeeded, reported code): in whatever order they arrive.
CASES = [
    ({1305, 1212}, False, 1212),  # out of memory is why the payload failed
    ({1305, 1235}, False, 1235),  # the pilot's own kill, not what the payload's end looked like
    ({1305, 1137}, False, 1305),  # the log could not leave either
    ({1305, 1144, 1137}, False, 1144),  # killed by the server
    ({1305, 1201, 1320}, False, 1201),
    ({1150, 1305, 1098}, False, None),  # two checks of the pilot: the first one that spoke
    ({1099, 1137}, False, 1099),
    ({1361, 1305}, False, 1361),  # environment before payload
    ({1328, 1305}, False, 1328),
    ({1165, 1305}, False, 1165),
    ({1152, 1319}, True, 1152),  # with a good payload the stage-out is the root cause
    ({1301, 1305}, False, 1305),
    ({1354, 1305}, False, 1305),  # a measurement that failed is never the reason
]


@pytest.mark.parametrize(("codes", "succeeded", "expected"), CASES)
def test_the_root_cause_is_reported_in_whatever_order_the_errors_arrive(
    codes: set[int], succeeded: bool, expected: int | None
) -> None:
    for order in itertools.permutations(sorted(codes)):
        errors = ErrorList()
        for code in order:
            assert errors.add(code, f"detail {code}")
        primary = errors.primary(succeeded)
        assert primary is not None
        wanted = expected if expected is not None else order[[code in (1150, 1098) for code in order].index(True)]
        assert primary.code == wanted
        assert primary.diagnosis.endswith(f"detail {wanted}")
        assert errors.codes() == list(order), "the list itself keeps the order of time"


def test_stage_out_trouble_with_a_code_of_stage_in_never_hides_why_the_payload_failed() -> None:
    errors = ErrorList()
    errors.add(1305, "exit code 7")
    errors.add(1103, "no such directory on the storage", rank=STAGE_OUT_RANK)
    primary = errors.primary(payload_succeeded=False)
    assert primary is not None and primary.code == 1305


def test_after_a_good_payload_a_failed_stage_out_ranks_with_missing_output_before_generic_errors() -> None:
    errors = ErrorList()
    errors.add(1305, "")
    errors.add(1103, "", rank=STAGE_OUT_RANK)
    primary = errors.primary(payload_succeeded=True)
    assert primary is not None and primary.code == 1103


def test_a_code_keeps_its_first_text_and_place() -> None:
    errors = ErrorList()
    assert errors.add(1305, "first")
    assert not errors.add(1305, "second")
    assert [error.diagnosis for error in errors] == ["Failed to execute payload: first"]
    errors.remove(1305)
    errors.remove(1305)
    assert (errors.primary(), len(errors), bool(errors)) == (None, 0, False)


def test_the_report_for_the_log_numbers_all_errors() -> None:
    errors = ErrorList()
    assert errors.report() == "no pilot errors were reported"
    errors.add(1305, "exit code 7")
    errors.add(1137)
    assert errors.report().splitlines() == [
        "Nr.\tError code\tError diagnostics",
        "1\t1305\tFailed to execute payload: exit code 7 [user; retry: never]",
        "2\t1137\tFailed to stage-out file [storage; retry: elsewhere]",
    ]


def test_the_server_is_told_who_must_act_what_to_try_and_which_other_errors_there_are() -> None:
    errors = ErrorList()
    assert errors.reported() is None
    errors.add(1305, "exit code 139")
    errors.add(1137, "no route to storage")
    errors.add(1328, "exit code 139 (SIGSEGV)", who="release", retry="elsewhere")
    errors.add(1355, "core.4711")
    assert errors.reported() == (1328, "SIGSEGV: Invalid memory reference or a segmentation fault: exit code 139 "
                                       "(SIGSEGV) [release; retry: elsewhere; also 1355, 1137]")


def test_a_remark_never_costs_the_default_text_nor_breaks_the_limit_and_a_signal_stands_last() -> None:
    for code, entry in ERROR_TABLE.items():
        for size in (0, 10, 100, 200, 500):
            errors = ErrorList()
            errors.add(code, "a" * size + "z")
            for other in (1355, 1137, 1320, 1098, 1319, 1221, 1141):
                errors.add(other, "x")
            reported = errors.reported()
            assert reported is not None
            text = next(iter(errors)).diagnosis if reported[0] != code else reported[1]
            assert len(text) <= 256 and text.startswith(entry.text)
    errors = ErrorList()
    errors.add(1200, "SIGINT")
    assert errors.reported() == (1200, "Job terminated by unknown kill signal: SIGINT")
