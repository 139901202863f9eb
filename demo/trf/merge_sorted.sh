#!/bin/bash
# merge_sorted.sh N PREFIX INPUT...: sorts the inputs, N at a time, into PREFIX-0.txt, PREFIX-1.txt, ...
set -eu
export LC_ALL=C
group=$1 prefix=$2
shift 2
index=0
while [ $# -gt 0 ]; do
    sort -n "${@:1:group}" >"$prefix-$index.txt"
    echo "$prefix-$index.txt: ${*:1:group}"
    shift "$(($# < group ? $# : group))"
    index=$((index + 1))
done
