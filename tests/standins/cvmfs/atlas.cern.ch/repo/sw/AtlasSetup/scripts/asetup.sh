# Stand-in for asetup, to be sourced by bash: see tests/standins/README.md.
echo "standin asetup $*"
case "$1" in
    *99.99.99*)
        echo "AtlasSetup(ERROR): No release candidates found" >&2
        return 1 ;;
esac
export STANDIN_RELEASE="$1"
export PATH="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../bin" && pwd):$PATH"
true
