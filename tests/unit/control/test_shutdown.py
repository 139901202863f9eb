"""The end of a pilot: reasons, deadlines, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.control.shutdown import Shutdown, SignalArrived, StopReason, WorkDone, signal_code

TABLE = {"SIGTERM": 1201, "SIGQUIT": 1202, "SIGSEGV": 1203, "SIGXCPU": 1204, "SIGUSR1": 1206, "SIGBUS": 1207,
         "SIGINT": 1200, "SIGHUP": 1200, "SIGALRM": 1200}


@pytest.mark.parametrize("name, code", TABLE.items())
def test_signals_have_the_codes_of_the_published_table(name: str, code: int) -> None:
    assert signal_code(getattr(signal, name)) == (code, name)


def test_sigterm_in_a_pod_is_a_preemption() -> None:
    assert signal_code(signal.SIGTERM, kubernetes=True) == (1379, "SIGTERM")
    assert signal_code(signal.SIGINT, kubernetes=True) == (1200, "SIGINT")


def test_the_first_signal_sets_the_deadline_and_further_ones_change_nothing() -> None:
    shutdown = Shutdown(100)
    assert shutdown.begin_signal(signal.SIGTERM)
    deadline = shutdown.deadline
    assert deadline is not None and shutdown.stopping.cancelled
    assert not shutdown.begin_signal(signal.SIGINT)
    assert shutdown.deadline == deadline and shutdown.signum == signal.SIGTERM


@pytest.mark.parametrize("name", ["SIGCONT", "SIGUSR2"])
def test_harmless_signals_end_nothing(name: str) -> None:
    shutdown = Shutdown(100)
    assert not shutdown.begin_signal(getattr(signal, name))
    assert not shutdown.stopping.cancelled and shutdown.reason is None


def test_a_signal_is_stronger_than_running_out_of_jobs() -> None:
    shutdown = Shutdown(100)
    shutdown.stop(StopReason("one job per pilot"))
    assert shutdown.begin_signal(signal.SIGTERM)
    assert shutdown.reason is not None and shutdown.reason.code == 1201 and shutdown.deadline is not None


def test_handlers_post_what_arrives_and_the_main_thread_gets_it() -> None:
    shutdown = Shutdown(100)
    fixed = (signal.SIGKILL, signal.SIGSTOP)
    previous = {number: signal.getsignal(number) for number in range(1, 32) if number not in fixed}
    wakeup = signal.set_wakeup_fd(-1)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        shutdown.install_handlers()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert shutdown.next_wake(10) == SignalArrived(signal.SIGUSR1)
        shutdown.work_done()
        assert isinstance(shutdown.next_wake(10), WorkDone)
        assert shutdown.next_wake(0) is None
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in previous.items():
            if handler is not None:
                signal.signal(number, handler)


def test_fault_signals_that_somebody_sends_are_taken() -> None:
    program = ("import os, signal\nfrom pilot.control.shutdown import Shutdown\nshutdown = Shutdown(100)\n"
               "shutdown.install_handlers()\n"
               "for name in ('SIGSEGV', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV'):\n"
               "    os.kill(os.getpid(), getattr(signal, name))\n    print(shutdown.next_wake(10).signum, flush=True)\n"
               "os._exit(0)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False,
                          cwd=Path(__file__).resolve().parents[3])
    assert done.stdout.split() == ["11", "7", "8", "4", "11"], done.stderr
