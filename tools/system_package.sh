#!/bin/sh
# system_package.sh TEST PACKAGE...: installs Debian packages unless the shell line TEST succeeds; says what to do when it may not.
set -eu
check=$1
shift
if sh -c "$check" >/dev/null 2>&1; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "make: missing here: $*. This is no Debian or Ubuntu: install the equivalent and try again." >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "make: missing here: $*. Run 'sudo apt-get install $*' (or make as root) and try again." >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "installing $*" >&2
apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null 2>&1 || {
    apt-get update -qq </dev/null
    apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null
}
sh -c "$check" >/dev/null 2>&1 || { echo "make: $* is installed, but '$check' still fails" >&2; exit 1; }
