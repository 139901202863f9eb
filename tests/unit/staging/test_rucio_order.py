"""What the helper puts between the Rucio library and its storage: it can be stopped, and has its time."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Callable, List

import psutil
import pytest

from pilot.copytool.worker.rucio_order import Abort, Order, copy, escaped, execute, limited, watched, working_for

PATIENCE = 20.0


def in_thread(order: Order, work: Callable[[], object]) -> tuple[threading.Thread, List[BaseException]]:
    """Do something for an order in a thread, as the library would: Exceptions are swallowed there."""
    errors: List[BaseException] = []

    def run() -> None:
        try:
            with working_for(order), order.in_library():
                try:
                    work()
                except Exception:
                    pass
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


def ended(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_an_abort_ends_a_thread_that_computes() -> None:
    order, begun = Order(), threading.Event()

    def compute() -> None:
        begun.set()
        while True:
            sum(range(100))

    thread, errors = in_thread(order, compute)
    assert begun.wait(PATIENCE)
    order.abort()
    ended(thread)
    assert [type(error) for error in errors] == [Abort]


def test_an_abort_kills_the_command_that_is_waited_for(tmp_path: Path) -> None:
    order, marker = Order(), tmp_path / "pid"
    script = f"echo $$ > {marker}.x; mv {marker}.x {marker}; exec sleep 600"
    thread, errors = in_thread(order, lambda: execute(["/bin/sh", "-c", script]))
    waiting = threading.Event()
    while not marker.exists():
        waiting.wait(0.01)
    pid = int(marker.read_text())
    order.abort()
    ended(thread)
    assert [type(error) for error in errors] == [Abort]
    assert not psutil.pid_exists(pid)


def test_nothing_begins_after_an_abort() -> None:
    order = Order()
    order.abort()
    thread, errors = in_thread(order, lambda: execute(["/bin/true"]))
    ended(thread)
    assert [type(error) for error in errors] == [Abort]


def test_an_abort_ends_a_local_copy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with open(source, "wb") as stream:
        stream.truncate(1 << 30)
    order = Order(lambda _count: order.abort())
    thread, errors = in_thread(order, lambda: copy(str(source), str(tmp_path / "target")))
    ended(thread)
    assert [type(error) for error in errors] == [Abort]
    assert order.copying


def test_a_command_that_copies_has_the_time_of_its_file(tmp_path: Path) -> None:
    command = tmp_path / "xrdcp"
    command.write_text("#!/bin/sh\nexec sleep 600\n")
    command.chmod(0o755)
    order = Order()
    order.begin("", limit=0.2)
    with working_for(order):
        code, _, said = execute([str(command), "a", "b"])
    assert code == 110 and "timed out" in said and order.said == said
    assert order.copying


def test_the_last_words_of_a_command_are_kept() -> None:
    order = Order()
    with working_for(order):
        code, out, said = execute(["/bin/sh", "-c", "echo fine; echo [3011] no such file >&2; exit 54"])
    assert (code, out.strip(), said.strip(), order.said) == (54, "fine", "[3011] no such file", "[3011] no such file")


def test_a_clean_up_has_an_end() -> None:
    with pytest.raises(Abort), limited(0.2):
        execute(["/bin/sleep", "600"])


def test_what_does_not_come_back_is_cleaned_up_all_the_same() -> None:
    order, cleaned, let_go = Order(), threading.Event(), threading.Event()
    order.clean_up = cleaned.set
    order.copies()

    def hang() -> None:
        with order.at_door(lambda: None):
            let_go.wait(PATIENCE)

    thread, errors = in_thread(order, hang)
    while not order._guarded:
        threading.Event().wait(0.01)
    order.abort()
    assert cleaned.is_set()
    let_go.set()
    ended(thread)
    assert [type(error) for error in errors] == [Abort]


def test_the_growth_of_a_file_is_told(tmp_path: Path) -> None:
    told, seen = [], threading.Event()

    def tell(count: int) -> None:
        told.append(count)
        seen.set()

    (tmp_path / "file.part").write_bytes(b"12345")
    order = Order(tell)
    order.begin(str(tmp_path / "file"))
    with watched(order):
        assert seen.wait(PATIENCE)
    assert told[0] == 5


@pytest.mark.parametrize(
    ("url", "result"),
    [("davs://h:1/a b/ü", "davs://h:1/a%20b/%C3%BC"), ("https://h/a?sig=x%2By&z=1", "https://h/a?sig=x%2By&z=1"),
     ("root://h//a b", "root://h//a b"), ("/local path", "/local path")],
)  # fmt: skip
def test_only_urls_of_the_web_are_escaped_and_signed_ones_stay(url: str, result: str) -> None:
    assert escaped(url) == result


def test_the_environment_of_a_command_is_that_of_the_helper_and_more() -> None:
    os.environ["OF_THE_HELPER"] = "1"
    try:
        assert execute(["/bin/sh", "-c", "echo $OF_THE_HELPER$MORE"], {"MORE": "2"})[1].strip() == "12"
    finally:
        del os.environ["OF_THE_HELPER"]
