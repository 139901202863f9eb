"""Runs a command and writes what it cost as one line of JSON: used as a small process of its own (``python -I -S``).

The kernel lets a child begin with its parent's peak memory, so the parent of what is measured has to be small.

    python -I -S benchmarks/launch.py RESULT COMMAND ARG...

RESULT: file for {"started", "ended": epoch s, "cpu": s of the command and all that it waited for, "rss": kB, "code"}.
"""

import json
import os
import sys
import time

out, command = sys.argv[1], sys.argv[2:]
started = time.time()
pid = os.fork()
if pid == 0:
    os.execvp(command[0], command)
_, status, usage = os.wait4(pid, 0)
ended = time.time()
with open(out, "w") as stream:
    json.dump(
        {
            "started": started,
            "ended": ended,
            "cpu": usage.ru_utime + usage.ru_stime,
            "rss": usage.ru_maxrss,
            "code": os.waitstatus_to_exitcode(status),
        },
        stream,
    )
