# Stand-in for ATLASLocalRootBase, to be sourced by bash: see tests/standins/README.md.
alrb_here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export ATLAS_LOCAL_ROOT_BASE="$alrb_here/ATLASLocalRootBase"
export AtlasSetup="$alrb_here/sw/AtlasSetup"
export STANDIN_ALRB="asetup=${ALRB_asetupVersion:-} xrootd=${ALRB_xrootdVersion:-}"
lsetup() { echo "standin lsetup $*"; }
alrb_image="" alrb_setup="" alrb_run="" alrb_options="" alrb_debug=""
while [ $# -gt 0 ]; do
    case "$1" in
        -c) alrb_image="$2"; shift 2 ;;
        -s) alrb_setup="$2"; shift 2 ;;
        -r) alrb_run="$2"; shift 2 ;;
        -e) alrb_options="$2"; shift 2 ;;
        -d) alrb_debug="yes"; shift ;;
        *) shift ;;
    esac
done
if [ -n "$alrb_image" ]; then
    printf 'image=%s\nsetup=%s\nrun=%s\noptions=%s\nd=%s\npayload=%s\n' "$alrb_image" "$alrb_setup" "$alrb_run" \
        "$alrb_options" "$alrb_debug" "${ALRB_CONT_RUNPAYLOAD:-}" > standin_container.txt
    alrb_inside="${ALRB_CONT_RUNPAYLOAD:-source $alrb_run}"
    STANDIN_CONTAINER="$alrb_image" bash -c "
        [ -z '$alrb_setup' ] || source '${alrb_setup/#\/srv/$PWD}' || echo 'standin: release set-up failed' >&2
        ${alrb_inside//\/srv/$PWD}"
fi
