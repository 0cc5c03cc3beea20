#!/usr/bin/env bash
# Checks the sources without running them: ruff (style, format and docstrings), clang-format, mypy
# (types of the package), the C compiler's strict warnings, and the shell checker (shellcheck). It
# compiles nothing, and leaves what is installed as it is.
#
#     scripts/lint.sh
#
# How long: half a minute after the first call, which installs the tools.
# What to expect: no output but the commands' own summaries; a non-zero status when something is to
# be mended.
set -euo pipefail
source "$(dirname "$0")/common.sh"

make_tools lint
cd "$ROOT"
"$VENV/bin/ruff" check .
"$VENV/bin/mypy"
"$VENV/bin/python" build_ffi.py # writes build/generated
include="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
"$VENV/bin/ruff" format --check .
"$VENV/bin/clang-format" --dry-run -Werror csrc/*.[ch] csrc/*/*.[ch]
for source in csrc/*.c csrc/*/*.c; do
    defines=()
    [[ "$source" = csrc/python/* ]] && defines=(-DPy_LIMITED_API=0x030A0000 -isystem "$include")
    for type in "" -DDN_DOUBLE; do
        # shellcheck disable=SC2086
        $CC -std=gnu11 -O1 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wunused-macros -Werror -fopenmp-simd -Icsrc -Ibuild/generated "${defines[@]}" $type \
            -fsyntax-only "$source"
    done
done
"$VENV/bin/shellcheck" -x -P SCRIPTDIR scripts/*.sh scripts/*.sbatch .ci/run
echo "nothing to mend"
