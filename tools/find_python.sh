#!/bin/sh
# find_python.sh VERSION: prints an interpreter of that version (3.9, 3.13), nothing when there is none.
# find_python.sh: prints the one to work with: $PYTHON, else python3 when it is 3.9 or newer, else the newest that is.
# A name in PATH is not enough: pyenv puts a python3.9 there that refuses to run.

works() { "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 9))' 2>/dev/null; }

of_version() {
    if works "python$1"; then
        command -v "python$1"
        return
    fi
    for candidate in $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python 2>/dev/null | sort -Vr); do
        if works "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

if [ $# -gt 0 ]; then
    of_version "$1"
elif [ -n "$PYTHON" ]; then
    echo "$PYTHON"
elif works python3; then
    command -v python3
else
    for version in 3.13 3.12 3.11 3.10 3.9; do
        found=$(of_version "$version")
        [ -z "$found" ] || { echo "$found"; exit 0; }
    done
fi
