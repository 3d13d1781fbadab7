#!/usr/bin/env bash
# Renews ros.lock and library.lock for Python 3.10 and newer. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")"
options=(--universal --python-version 3.10 --no-header --no-annotate --no-emit-package torch)
uv pip compile "${options[@]}" ros.txt -c test.txt -o ros.lock
# PyTorch's own requirements, without those of its CUDA build
printf '%s\n' filelock fsspec jinja2 networkx sympy typing_extensions > torch-requirements.tmp
uv pip compile "${options[@]}" ros.txt runtime.txt test.txt torch-requirements.tmp -c ros.lock -o everything.tmp
grep -vxFf ros.lock everything.tmp > library.lock
rm -f ./*.tmp
