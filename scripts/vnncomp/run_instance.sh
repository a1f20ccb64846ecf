#!/bin/bash
# VNN-COMP: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT
# Writes sat, unsat, unknown, timeout or error to RESULTS_FILE, and below sat the counterexample.
set -u
if [ "$#" -ne 6 ] || [ "$1" != v1 ]; then
    echo "usage: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT" >&2
    exit 2
fi
onnx=$3 vnnlib=$4 results=$5 limit=$6
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# The result is moved into place whole; until then the file tells what holds if this script is killed.
part="$results.part"
rm -f -- "$part"
echo timeout >"$results" || exit 2
timeout --kill-after=1 "$limit" "${VERIFIER_PYTHON:-python3}" -m verifier verify "$onnx" --property "$vnnlib" \
    --timeout "$limit" --result "$part" --quiet --uncertified
code=$?
if [ -s "$part" ]; then
    mv -- "$part" "$results"
elif [ "$code" -ne 124 ] && [ "$code" -ne 137 ]; then
    echo error >"$results"
fi
