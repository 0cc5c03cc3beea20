#!/usr/bin/env bash
# Records the first hour with dist_dynet on a fresh machine: in a new Debian, installs the wheel in
# dist/ for the Python there, then what the README asks for; trains the tagger and predicts with it,
# executes a tutorial, and runs all tests. Prints the record, as Markdown.
#
#     scripts/release.sh                                   # makes the wheel
#     scripts/first_hour.sh /var/tmp/fresh >docs/first_hour.md
#     SUITE=bookworm scripts/first_hour.sh /var/tmp/fresh  # another Debian; trixie without it
#
# WHEEL names another wheel than that in dist/. The folder must not exist. The new Debian is made
# there and left there, with what every command printed in full in root/log.
# How long: half an hour on two cores, most of it the tests.
# What to expect: the record on stdout, the commands as they start on stderr; a status other than 0
# if one of them failed.
# Needs: root, debootstrap, a package index, git; the committed files are what is tried.
set -euo pipefail
source "$(dirname "$0")/common.sh"

[ $# -eq 1 ] && [ ! -e "$1" ] || die "needs the name of a folder that does not exist"
command -v debootstrap >/dev/null && [ "$(id -u)" = 0 ] || die "needs root and debootstrap"
wheel="${WHEEL:-$(echo "$ROOT"/dist/*_"$(uname -m)".whl)}"
[ -e "$wheel" ] || die "needs a wheel in dist/: run scripts/release.sh $(uname -m)"
suite="${SUITE:-trixie}"
mkdir -p "$1"
root="$(cd "$1" && pwd)" home=/root failed=0 number=0

# The way to the package index, and the commits, are this machine's; all else is new.
# (Commands have no terminal: what they print is kept.)
debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" >"$root.log" 2>&1 ||
    die "debootstrap failed; see $root.log"
mkdir -p "$root$home/log" "$root/media"
for file in /etc/resolv.conf /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "$file" ] || cp -L "$file" "$root$file"
done
git init -q --bare --initial-branch main "$root/media/dist_dynet.git"
git -C "$ROOT" push -q "$root/media/dist_dynet.git" HEAD:main
cp "$wheel" "$root/media"
readme_block python >"$root/media/readme.py"

within() { # COMMAND: in the new machine, with nothing of this one's environment
    # shellcheck disable=SC2016 # the inner shell expands it
    env -i HOME=$home LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        DEBIAN_FRONTEND=noninteractive PIP_PROGRESS_BAR=off \
        unshare --mount --pid --fork --kill-child sh -c 'mount -t proc proc "$0/proc" &&
            mount --rbind /dev "$0/dev" && mount --rbind /sys "$0/sys" && exec chroot "$0" bash -c "$1"' "$root" "$1" </dev/null
}

shown() { # FILE: its lines, but for the middle of what is long
    awk -v home="$home" '{ sub(/\r$/, ""); sub(/^.*\r/, ""); gsub(home "/", "~/") }
        /^(Get|Hit):[0-9]/ { next } # names of hosts
        NF { line[++n] = length > 100 ? substr($0, 1, 97) "..." : $0 }
        END { for (i = 1; i <= n; i++)
            if (n <= 16 || i <= 3 || i > n - 10) print line[i]
            else if (i == 4) printf "[%d lines]\n", n - 13 }' "$1"
}

try() { # FOLDER-AT-HOME COMMAND: runs it and writes what it printed, and how long it took
    local log began status=0
    number=$((number + 1))
    log="$root$home/log/$number"
    echo "$2" >&2
    began=$(date +%s)
    within "cd $home/$1 && $2" >"$log" 2>&1 || status=$?
    printf '\n```console\n$ %s\n' "$2"
    shown "$log"
    printf '```\n\n%d s' "$(($(date +%s) - began))"
    if [ "$status" = 0 ]; then
        echo "."
    else
        echo "; status $status."
        failed=1
    fi
}

cat <<TEXT
# The first hour

What a new user's commands print on a fresh machine, and how long they took, recorded by
\`scripts/first_hour.sh\`: $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' "$root/etc/os-release") with nothing installed, in a root folder
of its own, on $(env -u OMP_NUM_THREADS nproc) cores of $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1).
The middle of what is long is left out, as are the names of hosts.

## The wheel, without a compiler
TEXT
try . 'apt-get update && apt-get install -y --no-install-recommends python3-venv'
try . 'python3 -m venv wheel && wheel/bin/pip install /media/*.whl'
try . 'wheel/bin/dist-dynet info'
try . 'wheel/bin/python /media/readme.py'
printf '\n## A clone, and what the README asks for\n'
try . 'apt-get install -y --no-install-recommends git gcc libc6-dev python3-dev'
try . 'git clone /media/dist_dynet.git'
printf '\n## The first command: a trained tagger\n'
try dist_dynet './scripts/train_tagger.sh'
printf '\n## The tagger is used\n'
try dist_dynet 'echo "The rain stopped ." | .venv/bin/python examples/tagger.py --predict -'
printf '\n## A tutorial\n'
try dist_dynet '.venv/bin/pip install -q nbconvert ipykernel'
try dist_dynet '.venv/bin/jupyter nbconvert --to notebook --execute --output-dir ~ docs/tutorials/xor.ipynb'
printf '\n## The second command: all tests\n'
try dist_dynet './scripts/test.sh'
exit $failed
