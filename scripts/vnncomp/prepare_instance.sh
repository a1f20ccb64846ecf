#!/bin/bash
# VNN-COMP: prepare_instance.sh v1 CATEGORY ONNX VNNLIB
# Nothing is converted in advance. Reads both files and the libraries, so that they are in the disk cache; an instance
# whose files are missing is skipped by a nonzero exit code.
set -eu
if [ "$#" -ne 4 ] || [ "$1" != v1 ]; then
    echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
cat -- "$3" "$4" >/dev/null
exec "${VERIFIER_PYTHON:-python3}" -c "import onnxruntime, verifier.batch.query, verifier.load"
