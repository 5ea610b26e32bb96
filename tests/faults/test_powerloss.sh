#!/bin/sh
# test_powerloss.sh - runs powerloss.c beside MEDRL_FAULTY, in a folder in memory where there is one.
. "$(dirname "$0")/../cli/lib.sh"
shm=$(mktemp -d /dev/shm/medrl-XXXXXX 2>/dev/null) || shm=$(mktemp -d)
trap 'rm -rf "$temp" "$shm"' EXIT
"$(dirname "$medrl")/powerloss" "$shm" || fail "see above"
checks=$((checks + 1))
passed
