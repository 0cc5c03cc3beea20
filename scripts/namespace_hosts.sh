#!/usr/bin/env bash
# Runs a command on the first of several "hosts" that are made of Linux namespaces on this machine,
# to try and to time jobs that span hosts.
#
#     scripts/namespace_hosts.sh dist-dynet run --hosts node0:1,node1:1,node2:1 train.py
#     scripts/namespace_hosts.sh -n 2 -r 1gbit dist-dynet run --no-bind --hosts node0:1,node1:1
#         train.py
#
#     -n N       so many hosts, node0, node1, ... (default 3)
#     -r RATE    what each host can send and get at most, as tc writes it: 1gbit, 200mbit (default:
#         no limit)
#
# A host has its own name, network card (eth0), shared memory (/dev/shm) and IPC; files and
# processors are those of the machine. The command
# finds DIST_DYNET_LAUNCH_AGENT and DIST_DYNET_INTERFACE set, so that dist-dynet run reaches the
# other hosts without ssh.
#
# How long: three hosts are there after 0.3 s. What to expect: the command's output and exit status;
# afterwards nothing is left, not even when
# this script is killed (-9), but for an empty folder in that case. 77 and a reason where the kernel
# does not allow it.
# Needs: root, or a kernel that lets users make namespaces; ip and tc (iproute2), unshare, nsenter
# and setpriv (util-linux).
set -euo pipefail
source "$(dirname "$0")/common.sh"

cannot() {
    echo "${0##*/}: cannot make hosts here: $*" >&2
    exit 77
}

hosts=3 rate=""
while getopts n:r: option; do
    case $option in
        n) hosts=$OPTARG ;;
        r) rate=$OPTARG ;;
        *) exit 64 ;;
    esac
done
if [[ ! $hosts =~ ^[1-9][0-9]?$ ]] || [ $# -lt "$OPTIND" ]; then
    echo "usage: ${0##*/} [-n HOSTS] [-r RATE] COMMAND..." >&2
    exit 64
fi

# ---- outside: into namespaces of our own, where everything else happens and ends
# -----------------------------------------------------------

if [ -z "${NAMESPACE_HOSTS:-}" ]; then
    for tool in ip tc unshare nsenter setpriv; do
        command -v "$tool" >/dev/null || cannot "$tool is missing"
    done
    enclose=(unshare --net --mount --pid --ipc --uts --fork)
    [ "$(id -u)" = 0 ] || enclose+=(--user --map-root-user)
    "${enclose[@]}" true 2>/dev/null || cannot "the kernel does not let this user make namespaces"
    NAMESPACE_HOSTS=$(mktemp -d)
    export NAMESPACE_HOSTS
    # The kernel kills unshare when this script ends, unshare kills the first process of the PID
    # namespace, and with it goes all that is in it.
    setpriv --pdeathsig KILL "${enclose[@]}" --kill-child --mount-proc -- bash "$(readlink -f "$0")" "$@" <&0 &
    inside=$!
    trap 'kill -KILL "$inside" 2>/dev/null || true; rmdir "$NAMESPACE_HOSTS" 2>/dev/null || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    status=0
    wait "$inside" || status=$?
    exit "$status"
fi

# ---- inside: a switch, and the hosts around it
# ---------------------------------------------------------------------------------------------

folder=$NAMESPACE_HOSTS
unset NAMESPACE_HOSTS
shift $((OPTIND - 1))
mount -t tmpfs none "$folder" || cannot "mounting is refused"

{
    echo "127.0.0.1 localhost"
    for ((i = 0; i < hosts; i++)); do echo "10.87.0.$((10 + i)) node$i"; done
} >"$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts || cannot "/etc/hosts cannot be replaced"

# Called by mpirun as ssh would be: options, host, command line. A host whose network card is down
# cannot be reached, as with ssh.
cat >"$folder/agent" <<'AGENT'
#!/bin/sh
while [ "${1#-}" != "$1" ]; do
    case $1 in -[lopFi]) shift ;; esac
    shift
done
process=$(cat "${0%/*}/$1.process") || exit 255
nsenter --target "$process" --net ip -oneline link show eth0 up | grep -q . || {
    echo "connect to host $1: No route to host" >&2
    exit 255
}
shift
exec nsenter --target "$process" --net --uts --ipc --mount --wd="$PWD" sh -c "$*"
AGENT
chmod +x "$folder/agent"

limit() { # COMMAND-PREFIX... DEVICE: what leaves the device is held back to the rate
    [ -z "$rate" ] || "${@:1:$#-1}" tc qdisc add dev "${!#}" root tbf rate "$rate" burst 256kb latency 100ms ||
        cannot "tc refuses the rate $rate"
}

ip link add switch type bridge 2>/dev/null || cannot "the kernel has no bridges"
ip link set switch up
ip link set lo up
for ((i = 0; i < hosts; i++)); do
    # A sleeping process holds the namespaces of the host; the rename makes the file whole when it
    # is seen.
    # shellcheck disable=SC2016
    unshare --net --uts --ipc --mount sh -c '
        hostname "$1" && mount -t tmpfs none /dev/shm && echo $$ >"$2.new" && mv "$2.new" "$2" && exec sleep infinity
    ' sh "node$i" "$folder/node$i.process" </dev/null >/dev/null 2>&1 &
done
for ((i = 0; i < hosts; i++)); do
    for ((tries = 0; tries < 1000; tries++)); do
        [ ! -e "$folder/node$i.process" ] || break
        sleep 0.01
    done
    [ -e "$folder/node$i.process" ] || cannot "node$i does not come up"
    process=$(cat "$folder/node$i.process")
    on_host=(nsenter --target "$process" --net --)
    ip link add "to-node$i" type veth peer name eth0 netns "$process" 2>/dev/null || cannot "the kernel has no veth devices"
    ip link set "to-node$i" master switch up
    "${on_host[@]}" ip link set lo up
    "${on_host[@]}" ip address add "10.87.0.$((10 + i))/24" dev eth0
    "${on_host[@]}" ip link set eth0 up
    limit "${on_host[@]}" eth0
    limit env "to-node$i"
done

# Open MPI names folders by host and process, which here are the same in each run.
mkdir "$folder/tmp"
export TMPDIR=$folder/tmp
export DIST_DYNET_LAUNCH_AGENT=$folder/agent DIST_DYNET_INTERFACE=eth0
status=0
nsenter --target "$(cat "$folder/node0.process")" --net --uts --ipc --mount --wd="$PWD" -- "$@" || status=$?
exit "$status"
