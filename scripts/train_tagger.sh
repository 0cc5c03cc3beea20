#!/usr/bin/env bash
# Trains the part-of-speech tagger (examples/tagger.py) data-parallel on 2 ranks, from a fresh
# clone: makes .venv,
# installs the toolkit with MPI into it, trains, and prints the accuracy on the test set.
#
#     scripts/train_tagger.sh                    5 epochs; other options go to tagger.py: --epochs 8
#                                                --dropout 0
#     QUICK=1 scripts/train_tagger.sh            1 epoch on 4,000 sentences
#     RANKS=4 scripts/train_tagger.sh            another number of ranks (1 works, too)
#
# How long: installing takes a minute or two at the first call, training less than a minute
# (QUICK=1: 10 s).
# What to expect: a line per epoch, with dev accuracy 0.92 rising to 0.945 and more, and at the end
# `test accuracy 0.947` (QUICK=1: 0.86). Model and metrics (JSON lines) are left in
# runs/tagger.
# Needs: Python >= 3.10 with pip and venv, a C compiler.
set -euo pipefail
source "$(dirname "$0")/common.sh"

make_venv mpi,examples
if [ "${QUICK:-0}" != 0 ]; then
    set -- --quick "$@"
fi
# Ranks are the parallelism: one thread each.
export PYTHONHASHSEED="${PYTHONHASHSEED:-0}" OMP_NUM_THREADS=1 # sets of strings have one order on all ranks
[ -t 2 ] && export DIST_DYNET_BARS="${DIST_DYNET_BARS:-1}" # a progress bar: mpirun gives ranks a pipe
"$VENV/bin/mpirun" -n "${RANKS:-2}" "$VENV/bin/python" "$ROOT/examples/tagger.py" "$@"
