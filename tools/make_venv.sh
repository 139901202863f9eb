#!/bin/sh
# make_venv.sh DIRECTORY VERSION EXTRA...: makes or updates a virtual environment with the dependencies of the extras.
# VERSION "" means the Python to work with. Without an interpreter of VERSION nothing is made, and that is no error.
set -eu
here=$(dirname "$0")
directory=$1 version=$2
shift 2
if [ -n "$version" ]; then
    python=$("$here/find_python.sh" "$version")
    if [ -z "$python" ]; then
        echo "no Python $version here: its tests are left out"
        exit 0
    fi
else
    [ -n "$("$here/find_python.sh")" ] || "$here/system_package.sh" 'command -v python3' python3
    python=$("$here/find_python.sh")
    if [ -z "$python" ]; then
        echo "make: Python 3.9 or newer is needed: install one, or say which with make PYTHON=/path/to/python3" >&2
        exit 1
    fi
fi
if [ ! -x "$directory/bin/python" ] || ! "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$directory"
    "$here/system_package.sh" "$python -c 'import venv, ensurepip'" python3-venv
    "$python" -m venv "$directory"
fi
list="$directory/requirements.txt"
"$directory/bin/python" "$here/requirements.py" "$@" >"$list"
echo "$directory: $("$directory/bin/python" --version), dependencies for: $*"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$list" </dev/null
touch "$directory/ready"
