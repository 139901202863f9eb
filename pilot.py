#!/usr/bin/env python3
"""Entry script of the PanDA Pilot. The first lines must be understood by any Python, in order to refuse an old one."""

import sys

if sys.version_info < (3, 9):
    sys.stderr.write(
        "pilot.py: Python 3.9 or newer is needed, %s is %d.%d: set up a newer python3\n"
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
    sys.exit(76)

try:
    from pilot.cli import main
except ImportError as exc:
    sys.stderr.write("pilot.py: the pilot is not complete or its Python (%s) is not: %s\n" % (sys.executable, exc))
    sys.exit(76)

if __name__ == "__main__":
    import os

    # main() has flushed everything. Taking 100 modules apart again would cost each pilot 10 to 20 ms of CPU, and a
    # library's thread that hangs could keep the process from ending.
    os._exit(main())
