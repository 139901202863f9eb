"""A pilot that somebody watches on a terminal keeps one line below its log; nowhere else is there a trace of that."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from typing import Callable, List, Mapping

import pytest
from harness import PATIENCE, Farm

ERASE = "\r\x1b[K"
LOG_LINE = re.compile(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \| ")


class Screen:
    """A pilot on a pseudo terminal: what it writes, and the width."""

    def __init__(self, farm: Farm, *options: str, env: Mapping[str, str] = {}, columns: int = 100) -> None:  # noqa: B006
        self.master, slave = pty.openpty()
        self.resize(columns)
        place = farm.directory / "terminal"
        place.mkdir()
        self.process = subprocess.Popen([*farm.command(), *options], cwd=place, stdin=subprocess.DEVNULL, stdout=slave,
                                        stderr=slave, env=farm.environment({"TERM": "xterm", **env}),
                                        start_new_session=True)
        os.close(slave)
        self.text = ""
        self.over = False
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        data = b""
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # EIO: nobody has the other side any more
                data = b""
            with self._more:
                self.text += data.decode(errors="replace")
                self.over = not data
                self._more.notify_all()
            if not data:
                return

    def wait_for(self, condition: Callable[[str], object]) -> None:
        with self._more:
            self._more.wait_for(lambda: condition(self.text) or self.over, PATIENCE)
            assert condition(self.text), self.text[-3000:]

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def end(self) -> int:
        try:
            code = self.process.wait(PATIENCE)
            self._reader.join(PATIENCE)
            return code
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            os.close(self.master)

    def lines(self) -> List[str]:
        """What a reader sees: of what stood in one line only the last is left."""
        return [line.rpartition(ERASE)[2].rstrip("\r") for line in self.text.split("\n")]

    def drawn(self, text: str) -> List[str]:
        """Every state of the bottom line in a part of the output."""
        return [part.partition("\r")[0].partition("\n")[0] for part in text.split(ERASE)[1:]
                if not LOG_LINE.match(part) and part.strip()]


def test_the_line_is_kept_below_the_log_and_taken_away_at_the_end(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    screen = Screen(farm)
    gate.reached()
    screen.wait_for(lambda text: re.search(rf"\x1b\[Kjob {job}  payload [\d.]+ s", text))
    gate.open()
    assert screen.end() == 0
    assert farm.final(job)["state"] == "finished"
    seen = screen.lines()
    strange = [line for line in seen if line and not LOG_LINE.match(line) and not line.startswith(" ")]
    assert not strange, "a log line begins at the margin, and nothing of the status line is left in it"
    assert seen[-1] == "", "the prompt comes into an empty line"
    assert len([line for line in seen if LOG_LINE.match(line)]) > 20
    log = (farm.directory / "terminal" / "pilotlog.txt").read_text()
    assert "\x1b" not in log and "\r" not in log


def test_a_signal_takes_the_line_away(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    screen = Screen(farm)
    gate.reached()
    screen.wait_for(lambda text: f"\x1b[Kjob {job}  payload" in text)
    screen.process.terminate()
    assert screen.end() == 143
    assert screen.lines()[-1] == ""
    assert farm.final(job)["pilotErrorCode"] == 1201


def test_the_line_stays_narrower_than_the_terminal(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    screen = Screen(farm)
    gate.reached()
    screen.wait_for(lambda text: f"\x1b[Kjob {job}  payload" in text)
    screen.resize(14)
    screen.wait_for(lambda text: f"\x1b[Kjob {str(job)[:6]}..." in text)
    narrow = screen.text.index(f"\x1b[Kjob {str(job)[:6]}...")
    gate.open()
    assert screen.end() == 0
    drawn = screen.drawn(screen.text[narrow - 2:])
    assert drawn and all(len(line) < 14 for line in drawn if not LOG_LINE.match(line)), drawn


@pytest.mark.parametrize(("options", "env"), [
    (("--set", "monitor.status_line=false"), {}), ((), {"TERM": "dumb"}), (("--redirect-stdout", "out.txt"), {})])
def test_where_nobody_wants_it_there_is_none(farm: Farm, options: tuple[str, ...], env: dict[str, str]) -> None:
    gate = farm.gate("payload")
    farm.submit_job(gate.shell())
    screen = Screen(farm, *options, env=env)
    gate.reached()
    gate.open()
    assert screen.end() == 0
    assert "\x1b" not in screen.text


def test_in_batch_there_is_none(farm: Farm) -> None:
    farm.submit_job()
    pilot = farm.run_pilot(env={"TERM": "xterm"})
    assert pilot.process.returncode == 0
    assert "\x1b" not in pilot.output and "\r" not in pilot.output
