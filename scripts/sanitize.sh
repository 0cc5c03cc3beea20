#!/usr/bin/env bash
# Builds the extensions with the address and undefined-behaviour sanitizers in a temporary folder
# and runs the tests under them.
#     scripts/sanitize.sh                       # all tests but those marked mpi or slow, and those
#                                                 that limit or measure memory
#     scripts/sanitize.sh tests/test_rnn.py     # these only; options of pytest may follow
#     DIST_DYNET_DTYPE=float64 scripts/sanitize.sh
# Needs: GCC with libasan and libubsan; the Python that runs the tests (PYTHON, else
# .venv/bin/python, else python3).
# How long: two minutes to build (both number types), then about three times as long as the tests
# take otherwise.
# What to expect: pytest's summary and status 0. The first fault ends the run with its report: read
# the first stack that names a file of csrc.
#     Leaks are not looked for: Python itself leaves memory behind.
set -euo pipefail
source "$(dirname "$0")/common.sh"

if [ -z "${PYTHON:-}" ]; then
    PYTHON="$ROOT/.venv/bin/python"
    [ -x "$PYTHON" ] || PYTHON="$(command -v python3)"
fi
CC="${CC:-gcc}"
FOLDER="$(mktemp -d)"
trap 'rm -rf "$FOLDER"' EXIT

runtime="$("$CC" -print-file-name=libasan.so)"
[ -e "$runtime" ] || die "$CC has no libasan; install GCC's sanitizer libraries."
runtime="$runtime $("$CC" -print-file-name=libstdc++.so.6)" # for exceptions of modules in C++

sanitizers="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
cd "$ROOT"
# No clones: they are chosen before the sanitizer is ready.
CC="$CC" LDFLAGS="${LDFLAGS:-} -fsanitize=address,undefined" DIST_DYNET_CLONES=0 DIST_DYNET_CFLAGS="-O1 -g $sanitizers" \
    "$PYTHON" setup.py -q build_ext --build-lib "$FOLDER/lib" --build-temp "$FOLDER/temp"
for file in $(cd "$ROOT" && find dist_dynet -name '*.py'); do
    mkdir -p "$FOLDER/lib/$(dirname "$file")"
    cp "$file" "$FOLDER/lib/$file"
done

[ $# -gt 0 ] || set -- tests
# halt: UBSan's reports, too, end the process. Python's own allocator would hide what happens in its
# blocks.
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:handle_abort=1:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:${UBSAN_OPTIONS:-}"
export PYTHONMALLOC=malloc PYTHONPATH="$FOLDER/lib:$ROOT/tests"
limits="not not_grow and not beyond_memory and not out_of_memory and not leave_no_memory and not too_many and not test_drift and not test_build.py"
# not `python -m pytest`: it would take the package of this folder first
run='import sys; sys.path.remove(""); import dist_dynet, pytest; assert sys.argv[1] in dist_dynet.__file__; sys.exit(pytest.main(sys.argv[2:]))'
LD_PRELOAD="$runtime" "$PYTHON" -c "$run" "$FOLDER" -p no:cacheprovider --capture=sys -q -m "not mpi and not slow" -k "$limits" "$@"
