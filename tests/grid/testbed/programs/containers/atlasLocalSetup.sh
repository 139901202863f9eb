# Stand-in for tests: ALRB's set-up, sourced. With -c IMAGE it runs $ALRB_CONT_RUNPAYLOAD in a container (the stand-in
# apptainer, the host as image) with the current directory as /srv; what it was given goes to $ALRB_STANDIN_LOG.
alrb_image= alrb_options= alrb_quiet=
while [ $# -gt 0 ]; do case "$1" in
  -c) alrb_image=$2; shift 2;;
  -e) alrb_options=$2; shift 2;;
  --quiet) alrb_quiet=1; shift;;
  *) echo "atlasLocalSetup.sh: unknown option $1" >&2; return 64;;
esac; done
{
  echo "image=$alrb_image" "options=$alrb_options" "quiet=$alrb_quiet"
  echo "payload=$ALRB_CONT_RUNPAYLOAD"
  echo "unpacked=$ALRB_CONT_UNPACKEDDIR" "local_py3=$ALRB_LOCAL_PY3"
  echo "base=$ATLAS_LOCAL_ROOT_BASE"
  echo "directory=$PWD"
} >> "$ALRB_STANDIN_LOG"
lsetup() { echo "lsetup=$*" >> lsetup.txt; }
export -f lsetup
[ -z "$alrb_image" ] && return 0
[ -z "$ALRB_CONT_RUNPAYLOAD" ] && { echo "atlasLocalSetup.sh: an interactive container is not for tests" >&2; return 65; }
apptainer exec $alrb_options -B "$PWD:/srv" -B "$X509_USER_PROXY:$X509_USER_PROXY" --pwd /srv / /bin/bash -c "$ALRB_CONT_RUNPAYLOAD"
return $?
