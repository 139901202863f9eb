"""A user's regular expression names outputs, and never takes the pilot hostage."""

from __future__ import annotations

import pytest

from pilot.common.exception import PilotException
from pilot.staging.patterns import names_matching


def test_a_pattern_matches_anywhere_as_the_server_does() -> None:
    assert names_matching(r"\.root$", ["a.root", "b.txt", "x.root.1", "o\u00fc.root"]) == ["a.root", "o\u00fc.root"]
    assert names_matching("x", []) == []


def test_what_is_no_pattern_is_said() -> None:
    with pytest.raises(PilotException, match="no regular expression") as caught:
        names_matching("(", ["a"])
    assert caught.value.code == 1371


def test_a_pattern_that_never_ends_is_given_up() -> None:
    with pytest.raises(PilotException, match="simpler pattern") as caught:
        names_matching("(a+)+$", ["a" * 64 + "!"], time_limit=0.5)
    assert caught.value.code == 1371
