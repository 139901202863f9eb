"""The thread of real-time logging, against sinks that fail, refuse, hang and come back."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from pilot.option_rules import RealtimeServer
from pilot.payload.realtime import follow, stream
from pilot.payload.realtime.plan import LogFile, Plan
from pilot.payload.realtime.records import Record
from pilot.payload.realtime.sinks import Sink, SinkError
from pilot.payload.realtime.stream import Stream


class Scripted(Sink):
    """Fails as it is told; tells the test about each call."""

    def __init__(self, *failures: SinkError) -> None:
        self.failures = list(failures)
        self.lines: list[str] = []
        self.called = threading.Semaphore(0)
        self.hang = threading.Event()
        self.hang.set()

    @property
    def place(self) -> str:
        return "the test"

    def send(self, records: list[Record]) -> None:  # type: ignore[override]
        self.called.release()
        self.hang.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.lines += [str(record.fields["message"]) for record in records]


def start(sink: Sink, path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    monkeypatch.setattr(stream, "make_sink", lambda _plan: sink)
    running = Stream(Plan("6000000001", RealtimeServer("logstash", "http", "h", 1), "log", [
        LogFile("a.log", lambda: path)], {}, False, True, 0.02))
    running.start()
    return running


def test_what_fails_is_sent_again_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "a.log"
    path.write_text("one\ntwo\n")
    sink = Scripted(SinkError("away"), SinkError("still away"))
    running = start(sink, path, monkeypatch)
    for _ in range(3):
        assert sink.called.acquire(timeout=60)
    running.finish(60)
    assert running.join(60)
    assert (sink.lines, running.sent, running.dropped) == (["one", "two"], 2, 0)
    assert caplog.text.count("lines stay in their files: away") == 1
    assert "takes lines again" in caplog.text and "2 lines sent, 0 lines dropped" in caplog.text


def test_what_is_refused_for_good_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.log"
    path.write_text("bad\n")
    sink = Scripted(SinkError("HTTP status 400", lost=True))
    running = start(sink, path, monkeypatch)
    assert sink.called.acquire(timeout=60)
    with open(path, "a") as writer:
        writer.write("good\n")
    running.finish(60)
    assert running.join(60)
    assert (sink.lines, running.sent, running.dropped) == (["good"], 1, 1)
    assert "1 lines are refused: HTTP status 400" in caplog.text and "1 lines dropped" in caplog.text


def test_a_sink_that_hangs_is_left_behind_with_a_balance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\ntwo\n")
    sink = Scripted()
    sink.hang.clear()
    running = start(sink, path, monkeypatch)
    assert sink.called.acquire(timeout=60)
    running.finish(0.0)
    assert not running.join(0.05)
    assert "the log server hangs: real-time logging is given up, 0 lines sent, 2 lines dropped" in caplog.text
    sink.hang.set()
    assert running.join(60)


def test_files_that_grow_too_fast_are_cut_and_the_log_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                              caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(follow, "LAG_LIMIT", 10_000)
    path = tmp_path / "a.log"
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))
    sink = Scripted()
    running = start(sink, path, monkeypatch)
    running.finish(60)
    assert running.join(60)
    assert sink.lines[-1] == "line 99999" and len(sink.lines) < 1000
    assert "bytes are left out" in caplog.text and "bytes that were not read" in caplog.text


def test_memory_stays_bounded_while_a_server_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.log"
    path.write_text("x\n" * 1_000_000)
    sink = Scripted(*[SinkError("away") for _ in range(1000)])
    running = start(sink, path, monkeypatch)
    for _ in range(2):
        assert sink.called.acquire(timeout=60)
    assert len(running._queue) <= stream.QUEUE_LINES + follow.CHUNK
    running.finish(0.0)
    assert running.join(60)
    assert running.sent == 0
