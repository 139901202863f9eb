#!/bin/sh
# grid_packages.sh: installs what the tests of tests/grid need (docs/grid-testbed.md): Debian packages of XRootD, gfal2, VOMS,
# gdb, ActiveMQ and PostgreSQL, none of which is started, and the virtual environments of three servers: Rucio, moto (S3), gcp-storage-emulator.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$here")
packages="xrootd-server xrootd-server-plugins xrootd-client xrootd-client-plugins python3-xrootd
    gfal2 gfal2-plugin-file gfal2-plugin-http gfal2-plugin-xrootd python3-gfal2 python3-gfal2-util gfal2-util-scripts
    davix voms-clients postgresql-15 openssl activemq bubblewrap podman runc gdb python3-psutil python3-requests python3-yaml"

installed() {
    # shellcheck disable=SC2086
    [ "$(dpkg-query -W -f='${db:Status-Status}\n' $packages 2>/dev/null | grep -cx installed)" = "$(echo $packages | wc -w)" ]
}

# The packages would start PostgreSQL and XRootD on their usual ports: policy-rc.d forbids it while apt runs.
install_packages() {
    policy=/usr/sbin/policy-rc.d
    saved=
    if [ "$(id -u)" = 0 ]; then
        if [ -e "$policy" ]; then
            saved=$(mktemp "$policy.XXXXXX")
            cp -p "$policy" "$saved"
        fi
        # shellcheck disable=SC2064
        trap "if [ -n '$saved' ]; then mv '$saved' '$policy'; else rm -f '$policy'; fi" EXIT
        trap 'exit 1' INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086
    "$here/system_package.sh" "command -v xrootd && command -v gfal-copy && command -v voms-proxy-fake && command -v bwrap && command -v podman && command -v gdb && command -v activemq \
        && /usr/bin/python3 -c 'import gfal2, XRootD, psutil, requests, yaml' && ls /usr/lib/postgresql/*/bin/initdb" $packages
}

# make_environment DIRECTORY PYTHON REQUIREMENT...: nothing is done when the same requirements are installed already.
make_environment() {
    directory=$checkout/$1 python=$2
    shift 2
    if [ -x "$directory/bin/python" ] && [ "$(cat "$directory/requirements.txt" 2>/dev/null)" = "$*" ]; then
        return
    fi
    echo "$directory: $*" >&2
    rm -rf "$directory"
    "$python" -m venv "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@" </dev/null
    echo "$*" >"$directory/requirements.txt"
}

status=0
installed || (install_packages) || status=1

# rucio and rucio-clients install the same package; the server lives apart, and so does moto with its many dependencies.
python=$("$here/find_python.sh" 3.11)
python=${python:-$("$here/find_python.sh")}
make_environment .venv-rucio-server "$python" 'rucio==41.5.1' 'gunicorn==27.0.1' 'psycopg[binary]==3.3.9'
make_environment .venv-moto "$python" 'moto[server,s3]==5.2.5'
make_environment .venv-gcs "$python" 'gcp-storage-emulator==2026.7.19'

# gfal2's Python module comes with Debian only, for Debian's Python: the virtual environments of the same version borrow it.
for python in "$checkout"/.venv*/bin/python; do
    [ -x "$python" ] || continue
    suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    module=/usr/lib/python3/dist-packages/gfal2$suffix
    [ ! -e "$module" ] || ln -sf "$module" "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/"
done
exit $status
