"""Commands with real processes: their end is the leader's end, and nothing of their group is left."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any, Dict

import pytest

from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.command import KEPT, Finished, run_command

PATIENCE = 30.0
ENV: Dict[str, str] = {"PATH": os.environ["PATH"]}


def shell(text: str, cwd: Path, token: CancelToken | None = None, **more: Any) -> Finished:
    return run_command(["bash", "-c", text], env=ENV, cwd=cwd, token=token or CancelToken(), **more)


def gone(pid: int) -> bool:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        pause.wait(0.01)
    return False


def test_exit_code_and_both_streams_come_back(tmp_path: Path) -> None:
    done = shell("echo out; echo err >&2; pwd; exit 3", tmp_path)
    assert (done.code, done.stdout, done.stderr) == (3, f"out\n{tmp_path}\n", "err\n")
    assert not done.timed_out


def test_a_signal_is_a_negative_code(tmp_path: Path) -> None:
    assert shell("kill -USR1 $$", tmp_path).code == -signal.SIGUSR1


def test_a_missing_command_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        run_command([str(tmp_path / "nothing")], env=ENV, cwd=tmp_path, token=CancelToken())


def test_arguments_are_never_interpreted_not_even_after_a_setup_file(tmp_path: Path) -> None:
    setup = tmp_path / "the site's setup.sh"
    setup.write_text("export SITE=here\necho welcome\n")
    words = ["printf", "%s|", "$(touch hacked)", "`touch hacked`", "; touch hacked", "a b", "-n", "*", "'"]
    done = run_command(words, env=ENV, cwd=tmp_path, token=CancelToken(), setup=str(setup))
    assert done.stdout == "|".join([*words[2:], ""]) and "welcome" in done.stderr
    assert not (tmp_path / "hacked").exists()
    seen = run_command(["bash", "-c", "echo $SITE"], env=ENV, cwd=tmp_path, token=CancelToken(), setup=str(setup))
    assert seen.stdout == "here\n"


def test_the_last_output_of_a_chatterbox_is_kept(tmp_path: Path) -> None:
    done = shell("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the cause", tmp_path)
    assert done.stdout.endswith("x\nthe cause\n") and len(done.stdout) <= KEPT


def test_output_is_a_sign_of_life(tmp_path: Path) -> None:
    signs = []
    shell("echo one; echo two >&2", tmp_path, on_output=lambda: signs.append(1))
    assert signs


def test_a_time_out_ends_the_whole_group(tmp_path: Path) -> None:
    done = shell("sleep 1000 & echo $!; sleep 1000", tmp_path, timeout=0.3)
    assert done.timed_out and done.code == -signal.SIGKILL
    assert gone(int(done.stdout))


def test_a_child_that_is_left_behind_neither_delays_the_end_nor_outlives_it(tmp_path: Path) -> None:
    done = shell("sleep 1000 & echo $!", tmp_path)
    assert done.code == 0 and not done.timed_out
    assert gone(int(done.stdout))


def test_a_command_that_closes_its_streams_is_waited_for(tmp_path: Path) -> None:
    done = shell("exec >&- 2>&-; sleep 0.2; touch done; exit 5", tmp_path)
    assert done.code == 5 and (tmp_path / "done").exists()


def test_one_that_closed_its_streams_can_be_broken_off_and_times_out(tmp_path: Path) -> None:
    token = CancelToken()
    threading.Timer(0.2, token.cancel, (1200, "enough")).start()
    with pytest.raises(CancelledError):
        shell("exec >&- 2>&-; exec sleep 1000", tmp_path, token)
    assert shell("exec >&- 2>&-; exec sleep 1000", tmp_path, timeout=0.2).timed_out


def test_a_cancelled_command_may_clean_up_and_then_dies_with_its_children(tmp_path: Path) -> None:
    token = CancelToken()
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    errors = []

    def run() -> None:
        try:
            deaf = "(trap '' TERM; sleep 1000)"
            shell(f"trap 'touch cleaned' TERM; {deaf} & echo $$ $! > pids; wait; wait", tmp_path, token)
        except CancelledError as exc:
            errors.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    told = [int(word) for word in pids.read_text().split()]
    token.cancel(1200, "enough")
    thread.join(PATIENCE)
    assert errors and errors[0].code == 1200
    assert (tmp_path / "cleaned").exists()
    assert all(map(gone, told))


def test_a_cancelled_token_starts_nothing(tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel(1200, "enough")
    with pytest.raises(CancelledError):
        shell("touch done", tmp_path, token)
    assert not (tmp_path / "done").exists()


def test_commands_leave_no_descriptors(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        run_command(["true"], env=ENV, cwd=tmp_path, token=CancelToken())
    assert len(os.listdir("/proc/self/fd")) <= before
