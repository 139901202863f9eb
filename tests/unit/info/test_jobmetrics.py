"""jobMetrics within the server's 500 bytes: whole pairs go, the least wanted first."""

from __future__ import annotations

import random

import pytest

from pilot.info.jobmetrics import LIMIT, PRIORITY, fit_metrics


def test_what_fits_stays_as_it_is() -> None:
    text = "actualCoreCount=7.81 nEvents=1000 workDirSize=123456789 leak=12.30 chi2=0.25 transferKey=1.0"
    assert fit_metrics(text) == text


def test_parts_are_joined_and_a_name_counts_once() -> None:
    assert fit_metrics("a=1  b=2\n", "", "b=3 c=4") == "a=1 b=2 c=4"


def test_the_least_wanted_goes_first_and_the_order_stays() -> None:
    text = f"nEvents=5 GPU_name={'x' * 200} eventnumber={'7' * 200} schedulerIP={'1' * 100} leak=10.00 chi2=0.10"
    assert fit_metrics(text) == " ".join(word for word in text.split() if not word.startswith("schedulerIP"))


def test_a_pair_that_never_fits_pushes_nothing_out() -> None:
    assert fit_metrics(f"leak={'1' * 600} nEvents=3") == "nEvents=3"


def test_other_names_come_behind_the_known_ones() -> None:
    mine = " ".join(f"mine{number}={'v' * 20}" for number in range(30))
    kept = fit_metrics(mine, "leak=10.00 transferKey=123.0").split()
    assert {"leak=10.00", "transferKey=123.0"} <= set(kept)
    assert kept[:2] == mine.split()[:2]


def test_bytes_count_and_nothing_but_printable_ascii_leaves() -> None:
    assert fit_metrics("café=1 b=\x1b[2J") == "caf?=1 b=?[2J"


@pytest.mark.parametrize("seed", range(30))
def test_no_pair_is_ever_cut(seed: int) -> None:
    dice = random.Random(seed)
    names = [*PRIORITY, *(f"own{number}" for number in range(20))]
    dice.shuffle(names)
    words = [f"{name}={'9' * dice.randint(1, 60)}" for name in names]
    text = fit_metrics(" ".join(words))
    kept = text.split()
    assert len(text.encode()) <= LIMIT
    assert [word for word in words if word in kept] == kept
