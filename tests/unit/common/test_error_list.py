"""Which of a job's errors is reported: the root cause, whatever came first (ATLASPANDA-282)."""

from __future__ import annotations

import itertools

import pytest

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
        "1\t1305\tFailed to execute payload: exit code 7",
        "2\t1137\tFailed to stage-out file",
    ]
