# Stand-in for tests: ALRB's set-up, sourced. With -c IMAGE it runs $ALRB_CONT_RUNPAYLOAD in a container (the stand-in
# apptainer, the host as image) with the current directory as /srv; with -s FILE -r FILE it sources these there. What it
# was given goes to $ALRB_STANDIN_LOG. The software of the tree beside this file is visible inside.
alrb_image= alrb_options= alrb_quiet= alrb_setup= alrb_run= alrb_debug=
alrb_tree=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
while [ $# -gt 0 ]; do case "$1" in
  -c) alrb_image=$2; shift 2;;
  -e) alrb_options=$2; shift 2;;
  -s) alrb_setup=$2; shift 2;;
  -r) alrb_run=$2; shift 2;;
  -d) alrb_debug=1; shift;;
  --quiet) alrb_quiet=1; shift;;
  *) echo "atlasLocalSetup.sh: unknown option $1" >&2; return 64;;
esac; done
{
  echo "image=$alrb_image" "options=$alrb_options" "quiet=$alrb_quiet"
  echo "payload=$ALRB_CONT_RUNPAYLOAD"
  echo "unpacked=$ALRB_CONT_UNPACKEDDIR" "local_py3=$ALRB_LOCAL_PY3"
  echo "base=$ATLAS_LOCAL_ROOT_BASE"
  echo "directory=$PWD"
  [ -n "$alrb_run" ] && echo "setup=$alrb_setup" "run=$alrb_run" "d=$alrb_debug"
} >> "$ALRB_STANDIN_LOG"
export AtlasSetup=$alrb_tree/sw/AtlasSetup
lsetup() { echo "lsetup=$*" >> lsetup.txt; }
export -f lsetup
[ -z "$alrb_image" ] && return 0
[ -n "$alrb_run" ] && ALRB_CONT_RUNPAYLOAD="source $alrb_setup || exit \$?; source $alrb_run"
[ -z "$ALRB_CONT_RUNPAYLOAD" ] && { echo "atlasLocalSetup.sh: an interactive container is not for tests" >&2; return 65; }
apptainer exec $alrb_options -B "$PWD:/srv" -B "$alrb_tree" -B "$X509_USER_PROXY:$X509_USER_PROXY" --pwd /srv / /bin/bash -c "$ALRB_CONT_RUNPAYLOAD"
return $?
