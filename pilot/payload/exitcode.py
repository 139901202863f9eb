"""What the number means with which a payload ended.

A death by signal n shows in two forms: bash 5 replaces itself by the last command of its line, so the process result is
-n; older shells and every container runtime return 128 + n. Both are 128 + n here (error-codes.md 8.1).
"""

from __future__ import annotations

import signal

# They end no process: 145 to 151 and 156 are codes of worker-node scripts and others.
_HARMLESS = frozenset({
    signal.SIGCHLD, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGURG,
    signal.SIGWINCH,
})

# Signals whose meaning deserves words; every other one is named only.
_MEANING = {
    signal.SIGABRT: "aborted",
    signal.SIGFPE: "arithmetic error",
    signal.SIGILL: "illegal instruction",
    signal.SIGXCPU: "CPU time limit of the node (ulimit -t) exceeded",
    signal.SIGXFSZ: "file size limit of the node (ulimit -f) exceeded",
    signal.SIGPIPE: "wrote to a pipe that nobody reads",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGBUS: "bus error",
}


def normalise(returncode: int) -> int:
    """Return the exit code as reported (transExitCode): 0 to 255 stay, -n becomes 128 + n."""
    return 128 - returncode if returncode < 0 else returncode


def signal_of(code: int) -> signal.Signals | None:
    """Return the signal that a (normalised) exit code stands for, None for an ordinary code.

    Only the classic signals 1..31 count: 160 to 162 are codes of HPO scripts, 255 is ``exit -1``.
    """
    if not 128 < code < 160:
        return None
    try:
        number = signal.Signals(code - 128)
    except ValueError:
        return None
    return None if number in _HARMLESS else number


def describe(code: int) -> str:
    """Return ``exit code 3`` or ``exit code 139 (SIGSEGV: segmentation fault)``."""
    number = signal_of(code)
    if number is None:
        return f"exit code {code}"
    meaning = _MEANING.get(number)
    return f"exit code {code} ({number.name}: {meaning})" if meaning else f"exit code {code} ({number.name})"
