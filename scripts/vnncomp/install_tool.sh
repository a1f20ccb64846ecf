#!/bin/bash
# VNN-COMP: install_tool.sh v1
# Installs the verifier with the Python in VERIFIER_PYTHON (default: python3).
set -eu
if [ "$#" -ne 1 ] || [ "$1" != v1 ]; then
    echo "usage: install_tool.sh v1" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
exec "${VERIFIER_PYTHON:-python3}" -m pip install "$root"
