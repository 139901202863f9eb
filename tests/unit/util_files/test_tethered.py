"""Programs that end with us: what they hear, how they are ended, and what is kept of their words."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Callable

import pytest

from pilot.util import procfs
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.tethered import KEPT, Ended, run_tethered


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ended]:
    def call(script: str, *, token: CancelToken | None = None, limit: float = 60.0) -> Ended:
        return run_tethered(
            ["/bin/bash", "-c", script], env={"PATH": os.environ["PATH"]}, cwd=tmp_path, token=token or CancelToken(),
            limit=limit, stdout=tmp_path / "out", stderr=tmp_path / "err")

    return call


def test_exit_code_and_output_are_kept(run: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run("echo good; echo bad >&2; exit 5")
    assert ended == Ended(5, "bad\n")
    run("echo more")
    assert (tmp_path / "out").read_text() == "good\nmore\n"
    assert (tmp_path / "err").read_text() == "bad\n"


def test_of_many_words_the_last_ones_are_kept_and_all_are_written(run: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo end >&2")
    assert len(ended.last_words) == KEPT and ended.last_words.endswith("xend\n")
    assert (tmp_path / "err").stat().st_size == 3000004


def test_the_program_hears_that_it_may_go_on_and_of_the_end(run: Callable[..., Ended], tmp_path: Path) -> None:
    token = CancelToken()
    os.mkfifo(tmp_path / "there")
    threading.Thread(target=lambda: ((tmp_path / "there").read_text(), token.cancel(1200, "enough"))).start()
    ended = run("read word; echo $word > there; read word || echo cleaned up; exit 3", token=token)
    assert (ended.code, ended.timed_out) == (3, False)
    assert (tmp_path / "out").read_text() == "cleaned up\n"


def test_who_does_not_listen_is_killed_with_all_that_is_in_the_session(
        run: Callable[..., Ended], tmp_path: Path) -> None:
    token = CancelToken()
    os.mkfifo(tmp_path / "there")
    threading.Thread(target=lambda: ((tmp_path / "there").read_text(), token.cancel(1200, "enough"))).start()
    ended = run("trap '' TERM; set -m; (trap '' TERM; sleep 3600) & echo $! > child; echo > there; sleep 3600",
                token=token)
    assert ended.code == -9
    info = procfs.read_process(int((tmp_path / "child").read_text()))
    assert info is None or not info.alive


def test_a_program_that_takes_too_long_is_ended(run: Callable[..., Ended]) -> None:
    ended = run("echo late >&2; trap '' TERM; sleep 3600", limit=0.1)
    assert ended.timed_out and ended.code == -9


def test_what_the_program_leaves_behind_in_its_session_is_ended(run: Callable[..., Ended], tmp_path: Path) -> None:
    assert run("sleep 3600 & echo $! > child").code == 0
    pid = int((tmp_path / "child").read_text())
    info = procfs.read_process(pid)
    assert info is None or not info.alive


def test_a_cancelled_token_starts_nothing(run: Callable[..., Ended], tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel(1200, "enough")
    with pytest.raises(CancelledError):
        run("touch started", token=token)
    assert not (tmp_path / "started").exists()


def test_no_descriptor_is_left_open(run: Callable[..., Ended]) -> None:
    run("true")
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        run("true")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_without_pidfd_the_end_of_stdins_other_side_tells(
        run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilot.util.tethered._open_pidfd", lambda _pid: None)
    assert run("exit 4").code == 4
    assert run("exec > /dev/null 2>&1; exec sleep 0.01").code == 0
