"""Helper processes with real processes: they crash, hang, print, vanish, and cost nobody but their own order."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Set

import pytest

from pilot.common.exception import MiddlewareImportFailure
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.helper import MOST, HelperFailure, HelperLost, HelperPool

ROOT = Path(__file__).resolve().parents[3]
ROGUE = "tests.unit.helpers.rogue"
PATIENCE = 30.0


def environ(**more: str) -> Dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **more}


ENV = environ()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[HelperPool]:
    made = HelperPool(tmp_path, (sys.executable,))
    with made.session():
        yield made
    made.close(at_once=True)


def ask(pool: HelperPool, op: str, token: CancelToken | None = None, **args: Any) -> dict[str, Any]:
    return pool.call(ROGUE, op, args, env=ENV, token=token or CancelToken())


def until(condition: Callable[[], bool], what: str) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail(f"not within {PATIENCE:.0f} s: {what}")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def earlier() -> None:
    """What other tests have left is not what these are about."""
    EARLIER.clear()
    EARLIER.update(zombies())


EARLIER: Set[int] = set()


def zombies() -> List[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[1]) == os.getpid() and int(entry.name) not in EARLIER:
                found.append(int(entry.name))
    return found


class Order:
    """An order in a thread of its own; ``events`` wakes with the first one."""

    def __init__(self, pool: HelperPool, op: str, env: Mapping[str, str] = ENV, **args: Any) -> None:
        self.token = CancelToken()
        self.events: List[Mapping[str, Any]] = []
        self.told = threading.Event()
        self.error: BaseException | None = None
        self.result: dict[str, Any] | None = None

        def note(event: Mapping[str, Any]) -> None:
            self.events.append(event)
            self.told.set()

        def run() -> None:
            try:
                self.result = pool.call(ROGUE, op, args, env=env, token=self.token, on_event=note)
            except BaseException as exc:
                self.error = exc

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def begun(self) -> Mapping[str, Any]:
        assert self.told.wait(PATIENCE)
        return self.events[0]

    def wait(self) -> None:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the order does not end"


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_order_is_answered_and_the_helper_is_kept(pool: HelperPool) -> None:
    first, second = ask(pool, "echo", x=1), ask(pool, "echo", x=[1, "ü", None])
    assert (first["args"], second["args"]) == ({"x": 1}, {"x": [1, "ü", None]})
    assert first["pid"] == second["pid"]


def test_environments_do_not_mix(pool: HelperPool) -> None:
    one = pool.call(ROGUE, "describe", {}, env=environ(X509_USER_PROXY="/one"), token=CancelToken())
    other = pool.call(ROGUE, "describe", {}, env=environ(X509_USER_PROXY="/other"), token=CancelToken())
    assert (one["environ"]["X509_USER_PROXY"], other["environ"]["X509_USER_PROXY"]) == ("/one", "/other")


def test_old_environments_are_let_go_when_their_orders_are_done(pool: HelperPool, tmp_path: Path) -> None:
    busy = Order(pool, "obey", environ(TURN="busy"), mark=str(tmp_path / "mark"))
    pids = [busy.begun()["pid"]]
    for turn in range(8):
        answer = pool.call(ROGUE, "echo", {}, env=environ(TURN=str(turn)), token=CancelToken())
        pids.append(answer["pid"])
    until(lambda: sum(map(alive, pids)) == MOST + 1, "the newest and the busy one are left")
    assert alive(pids[0]) and busy.thread.is_alive()
    busy.token.cancel(1200, "enough")
    busy.wait()
    until(lambda: not alive(pids[0]), "the busy one ends after its order")


def test_a_refusal_brings_its_facts(pool: HelperPool) -> None:
    with pytest.raises(HelperFailure) as caught:
        ask(pool, "refuse")
    assert caught.value.text == "no such file" and caught.value.facts["errno"] == 2


@pytest.mark.parametrize(
    ("op", "text", "number"),
    [("fault", "No space left", 28), ("leave", "SystemExit: 4", 0), ("no_json", "ircular", 0), ("odd", "KeyError", 0)],
)
def test_whatever_a_library_raises_is_an_answer(pool: HelperPool, op: str, text: str, number: int) -> None:
    with pytest.raises(HelperFailure) as caught:
        ask(pool, op)
    assert text in caught.value.text and caught.value.facts["errno"] == number
    assert ask(pool, "echo")["args"] == {}


def test_big_orders_and_answers_pass(pool: HelperPool) -> None:
    text = "é" * 3_000_000
    assert ask(pool, "echo", text=text)["args"]["text"] == text


def test_five_hundred_orders_of_several_threads_get_their_own_answers(pool: HelperPool) -> None:
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda number: ask(pool, "echo", number=number, pad="x" * 2000), range(500)))
    assert [answer["args"]["number"] for answer in answers] == list(range(500))
    assert len({answer["pid"] for answer in answers}) == 1


def test_noise_does_not_stand_among_the_answers(pool: HelperPool) -> None:
    assert ask(pool, "noise", long=5_000_000)["said"]
    assert ask(pool, "echo")["args"] == {}


def test_a_line_without_an_end_does_not_fill_the_memory(pool: HelperPool) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ask(pool, "noise", huge=300)
    assert ask(pool, "echo")["args"] == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 280 << 10


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_crash_is_repeated_once_in_a_new_helper(pool: HelperPool, tmp_path: Path) -> None:
    assert ask(pool, "crash", once=str(tmp_path / "mark")) == {"again": False}


def test_the_second_try_knows_that_something_was_done(pool: HelperPool, tmp_path: Path) -> None:
    assert ask(pool, "crash", once=str(tmp_path / "mark"), event=True) == {"again": True}


def test_a_second_crash_is_an_error_with_signal_and_last_words(pool: HelperPool) -> None:
    with pytest.raises(HelperLost) as caught:
        ask(pool, "crash")
    assert caught.value.code == 1099
    assert "signal 11" in caught.value.detail and "my last words" in caught.value.detail
    assert ask(pool, "echo")["args"] == {}


@pytest.mark.parametrize("fork", ["exec", "plain"])
def test_a_crash_is_noticed_although_a_child_holds_the_pipes(pool: HelperPool, fork: str) -> None:
    with pytest.raises(HelperLost):
        ask(pool, "crash", fork=fork)
    until(lambda: not zombies(), f"no zombies: {zombies()}")


def test_a_helper_that_is_killed_from_outside_costs_its_orders_one_repetition(pool: HelperPool, tmp_path: Path) -> None:
    orders = [Order(pool, "obey", mark=str(tmp_path / str(number))) for number in range(5)]
    first = {order.begun()["pid"] for order in orders}
    assert len(first) == 1
    os.kill(first.pop(), signal.SIGKILL)
    for order in orders:
        until(lambda order=order: len(order.events) == 2, "it is begun again")  # type: ignore[misc]
        order.token.cancel(1200, "enough")
        order.wait()
        assert isinstance(order.error, CancelledError)


# --- hangs and aborts -------------------------------------------------------------------------------------------------


def test_an_order_that_obeys_is_broken_off_and_the_helper_goes_on(pool: HelperPool, tmp_path: Path) -> None:
    order = Order(pool, "obey", mark=str(tmp_path / "mark"))
    pid = order.begun()["pid"]
    order.token.cancel(1151, "enough")
    order.wait()
    assert isinstance(order.error, CancelledError) and order.error.code == 1151
    assert (tmp_path / "mark").exists()
    assert ask(pool, "echo")["pid"] == pid


def test_an_order_that_hangs_is_given_up_and_its_helper_ends_with_its_children(pool: HelperPool) -> None:
    order = Order(pool, "children")
    told = order.begun()
    order.token.cancel(1151, "enough")
    order.wait()
    assert isinstance(order.error, CancelledError)
    until(lambda: not alive(told["pid"]) and not alive(told["child"]), "both processes are gone")
    until(lambda: not zombies(), f"no zombies: {zombies()}")


def test_one_that_hangs_costs_the_others_nothing(pool: HelperPool, tmp_path: Path) -> None:
    other = Order(pool, "obey", mark=str(tmp_path / "mark"))
    pid = other.begun()["pid"]
    hanging = Order(pool, "hang")
    hanging.begun()
    hanging.token.cancel(1151, "enough")
    hanging.wait()
    assert ask(pool, "echo")["pid"] != pid, "new orders go to a new helper"
    assert alive(pid) and not other.error, "the other order is still under way"
    other.token.cancel(1151, "enough")
    other.wait()
    assert (tmp_path / "mark").exists()
    until(lambda: not alive(pid), "the old helper ends")


def test_a_cancelled_token_begins_nothing(pool: HelperPool, tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel(1200, "enough")
    with pytest.raises(CancelledError):
        ask(pool, "obey", token, mark=str(tmp_path / "mark"))
    assert not (tmp_path / "mark").exists()


def test_a_token_that_is_cancelled_after_the_answer_changes_nothing(pool: HelperPool) -> None:
    token = CancelToken()
    pid = ask(pool, "echo", token)["pid"]
    token.cancel(1200, "enough")
    assert ask(pool, "echo")["pid"] == pid


def test_an_observer_that_fails_gives_its_order_up(pool: HelperPool) -> None:
    def fail(_event: Mapping[str, Any]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pool.call(ROGUE, "hang", {}, env=ENV, token=CancelToken(), on_event=fail)
    assert ask(pool, "echo")["args"] == {}


# --- starting and ending ----------------------------------------------------------------------------------------------


def test_a_library_that_is_missing_everywhere_is_1342_with_every_reason(tmp_path: Path) -> None:
    pool = HelperPool(tmp_path, (sys.executable, str(tmp_path / "no python")))
    with pytest.raises(MiddlewareImportFailure) as caught:
        pool.call(ROGUE, "echo", {}, env=environ(ROGUE_IMPORT="missing"), token=CancelToken())
    assert caught.value.code == 1342
    assert "no module named rogue" in caught.value.detail and "no python" in caught.value.detail


def test_a_library_that_crashes_when_it_is_imported_is_not_usable(tmp_path: Path) -> None:
    problem = HelperPool(tmp_path, (sys.executable,)).missing(ROGUE, environ(ROGUE_IMPORT="crash"))
    assert "signal 11" in problem


def test_the_next_interpreter_is_tried_when_one_lacks_the_library(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.symlink_to("/usr/bin/python3")
    pool = HelperPool(tmp_path, (str(other), "/usr/bin/python3"))
    with pool.session():
        env = environ(ROGUE_IMPORT=f"not with {other}")
        assert pool.call(ROGUE, "echo", {}, env=env, token=CancelToken())["args"] == {}
    pool.close(at_once=True)


def test_a_greeting_of_the_library_is_not_taken_for_ours(pool: HelperPool) -> None:
    assert pool.call(ROGUE, "echo", {}, env=environ(ROGUE_IMPORT="noise"), token=CancelToken())["args"] == {}


def test_an_import_that_hangs_holds_nobody_who_is_cancelled(pool: HelperPool) -> None:
    env = environ(ROGUE_IMPORT="hang")
    orders = [Order(pool, "echo", env) for _ in range(3)]
    for order in orders:
        order.token.cancel(1200, "enough")
        order.wait()
        assert isinstance(order.error, CancelledError)
    pool.close(at_once=True)
    until(lambda: not zombies(), "the helper is gone")


def test_closing_lets_running_orders_finish(tmp_path: Path) -> None:
    pool = HelperPool(tmp_path, (sys.executable,))
    order = Order(pool, "obey", mark=str(tmp_path / "mark"))
    pid = order.begun()["pid"]
    pool.close()
    assert alive(pid) and order.thread.is_alive()
    order.token.cancel(1200, "enough")
    order.wait()
    assert (tmp_path / "mark").exists()
    until(lambda: not alive(pid), "then the helper ends")


def test_closing_at_once_ends_orders_without_repeating_them(tmp_path: Path) -> None:
    pool = HelperPool(tmp_path, (sys.executable,))
    orders = [Order(pool, "hang") for _ in range(3)]
    pids = {order.begun()["pid"] for order in orders}
    pool.close(at_once=True)
    for order in orders:
        order.wait()
        assert isinstance(order.error, HelperLost) and len(order.events) == 1
    until(lambda: not any(map(alive, pids)), "the helper is gone")


def test_two_hundred_helpers_leave_no_descriptor_thread_or_zombie(tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\necho \'{"ready": 1}\'\nread order\necho \'{"id": 1, "result": {}}\'\nexec cat\n')
    stub.chmod(0o755)
    pool = HelperPool(tmp_path, (str(stub),))
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(200):
        with pool.session():
            assert ask(pool, "echo") == {}
    until(lambda: threading.active_count() <= before[1], "the threads end")
    until(lambda: not zombies(), f"no zombies: {zombies()}")
    assert len(os.listdir("/proc/self/fd")) <= before[0]


# --- what a helper is -------------------------------------------------------------------------------------------------


def test_secrets_of_the_environment_are_not_in_the_command_line(pool: HelperPool, tmp_path: Path) -> None:
    env = environ(BEARER_TOKEN="secret-bearer-token-value")
    seen = pool.call(ROGUE, "describe", {}, env=env, token=CancelToken())
    assert "secret-bearer" not in seen["argv"] and seen["environ"]["BEARER_TOKEN"] == "secret-bearer-token-value"
    assert seen["core"] == 0 and seen["group"] and seen["cwd"] == str(tmp_path)
    assert ask(pool, "secret_fork") == {"dumpable": 0}
    assert set(seen["environ"]) - set(env) <= {"LC_CTYPE", "PWD", "SHLVL", "_"}


def test_a_module_in_the_job_directory_is_not_taken_for_the_real_one(tmp_path: Path) -> None:
    for name in ("json.py", "pilot.py", "signal.py", "threading.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the job was executed')\n")
    pool = HelperPool(tmp_path, (sys.executable,))
    with pool.session():
        seen = pool.call(ROGUE, "describe", {}, env=environ(PYTHONPATH=f":{ROOT}:."), token=CancelToken())
    pool.close(at_once=True)
    assert not seen["json"].startswith(str(tmp_path)) and "" not in seen["path"] and "." not in seen["path"]


@pytest.mark.parametrize("python", ["3.9.18", "3.13.0", "system"])
def test_other_versions_of_python_serve_too(tmp_path: Path, python: str) -> None:
    path = "/usr/bin/python3" if python == "system" else _pyenv(python)
    if not os.access(path, os.X_OK):
        pytest.skip(f"there is no Python {python} here")
    pool = HelperPool(tmp_path, (path,))
    with pool.session():
        seen = ask(pool, "describe")
        assert sys.version_info[:2] == tuple(seen["version"]) or str(ROOT) in seen["path"]
        ask(pool, "noise")
        with pytest.raises(HelperLost):
            ask(pool, "crash")
    pool.close(at_once=True)


def _pyenv(version: str) -> str:
    root = Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv")))
    return str(root / "versions" / version / "bin" / "python")


# --- with the rest of the pilot ---------------------------------------------------------------------------------------


def run_script(text: str, *arguments: str) -> subprocess.Popen[str]:
    code = textwrap.dedent(text)
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)},
                            stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_nothing_is_left_when_the_pilot_is_killed(tmp_path: Path) -> None:
    pilot = run_script(
        """
        import os, sys
        from pathlib import Path
        from pilot.util.cancel import CancelToken
        from pilot.util.helper import HelperPool
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"]}
        pool = HelperPool(Path(sys.argv[1]), (sys.executable,))
        pool.call("tests.unit.helpers.rogue", "children", {}, env=env, token=CancelToken(),
                  on_event=lambda event: print(event["pid"], event["child"], flush=True))
        """,
        str(tmp_path),
    )
    assert pilot.stdout is not None
    pids = [int(word) for word in pilot.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    pilot.kill()
    pilot.wait()
    pilot.stdout.close()
    until(lambda: not any(map(alive, pids)), "helper and child are gone")


def test_helpers_and_payloads_do_not_take_each_others_ends(tmp_path: Path) -> None:
    """Helpers crash while payloads run and are killed, under the pilot's reaper of ended children."""
    pilot = run_script(
        """
        import os, signal, sys, threading
        from pathlib import Path
        from pilot.payload.process import Supervisor
        from pilot.util.cancel import CancelToken
        from pilot.util.command import run_command
        from pilot.util.helper import HelperLost, HelperPool
        here = Path(sys.argv[1])
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"]}
        supervisor = Supervisor()
        supervisor.start()
        pool = HelperPool(here, (sys.executable,))
        texts, codes, answers = [], [], []

        def crash():
            for fork in ("", "exec", "plain"):
                try:
                    pool.call("tests.unit.helpers.rogue", "crash", {"fork": fork}, env=env, token=CancelToken())
                except HelperLost as exc:
                    texts.append(exc.detail)

        def pay():
            for number in range(10):
                child = supervisor.spawn(["sh", "-c", "sleep 1000 & wait"], cwd=here, env=env)
                supervisor.send_signal(child, signal.SIGKILL)
                codes.append(child.wait(20).signal)

        def order():
            for number in range(20):
                answers.append(run_command(["sh", "-c", f"exit {number}"], env=env, cwd=here, token=CancelToken()).code)

        threads = [threading.Thread(target=each) for each in (crash, pay, order)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        pool.close(at_once=True)
        supervisor.close()
        assert len(texts) == 3 and all("signal 11" in text for text in texts), texts
        assert codes == [9] * 10, codes
        assert answers == list(range(20)), answers
        for _ in range(500):
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            if not children: break
            threading.Event().wait(0.01)
        print("children", children, flush=True)
        """,
        str(tmp_path),
    )
    out, _ = pilot.communicate(timeout=100)
    assert pilot.returncode == 0 and out.strip() == "children []"
