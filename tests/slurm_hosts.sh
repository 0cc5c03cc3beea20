#!/usr/bin/env bash
# Runs a command on the first of several hosts that a Slurm of its own controls; sshd runs on each
# of them, too. For tests.
#
#     scripts/namespace_hosts.sh -n 2 tests/slurm_hosts.sh sbatch --wait train.sbatch
#
#     SLURM_HOSTS_CGROUPS=1 scripts/namespace_hosts.sh ...    # jobs in control groups, which limit
#         cores and memory, and bind tasks
#
# The hosts are those of scripts/namespace_hosts.sh, each with two cores as far as Slurm knows.
# Keys, configuration and state lie in a folder that goes with the hosts; of the machine nothing is
# changed, and when the command ends, everything ends.
#
# How long: the cluster is there after 2 to 4 s. What to expect: the command's output and exit
# status; 77 and a reason where it cannot be had. Needs: root, slurmctld, slurmd, munged, sshd
# (Debian, Ubuntu: slurm-wlm, munge, openssh-server).
set -euo pipefail

cannot() {
    echo "${0##*/}: cannot make a cluster here: $*" >&2
    exit 77
}

export PATH="$PATH:/usr/sbin:/sbin"
[ "$(id -u)" = 0 ] || cannot "it needs root"
for tool in slurmctld slurmd sbatch srun scontrol sinfo munged sshd ssh-keygen; do
    command -v "$tool" >/dev/null || cannot "$tool is missing (Debian, Ubuntu: apt install slurm-wlm munge openssh-server)"
done
[ -n "${DIST_DYNET_LAUNCH_AGENT:-}" ] || cannot "it runs on hosts of scripts/namespace_hosts.sh"

on_host=$DIST_DYNET_LAUNCH_AGENT
unset DIST_DYNET_LAUNCH_AGENT DIST_DYNET_INTERFACE # with ssh there, ranks are started as on hosts of metal
mapfile -t hosts < <(awk '/node/ {print $2}' /etc/hosts)
names=$(IFS=,; echo "${hosts[*]}")
state=$(mktemp -d)
chmod 755 "$state"

# ---- ssh: a key for the user, and one for each host ------------------------------------

mkdir -m 700 "$state/ssh"
ssh-keygen -q -t ed25519 -N '' -f "$state/ssh/id_ed25519"
cp "$state/ssh/id_ed25519.pub" "$state/ssh/authorized_keys"
for host in "${hosts[@]}"; do
    ssh-keygen -q -t ed25519 -N '' -f "$state/$host.key"
    echo "$host $(cat "$state/$host.key.pub")" >>"$state/ssh/known_hosts"
done
home=$(getent passwd root | cut -d: -f6) # ssh asks there, whatever HOME is
mkdir -p /run/sshd "$home/.ssh"

# ---- Slurm -----------------------------------------------------------------------------

if [ -n "${SLURM_HOSTS_CGROUPS:-}" ]; then
    [ -w /sys/fs/cgroup/memory ] && [ -w /sys/fs/cgroup/cpuset ] || cannot "it has no control groups of version 1 that it may write to"
    groups="CgroupPlugin=cgroup/v1 ConstrainCores=yes ConstrainRAMSpace=yes"
    plugins="ProctrackType=proctrack/cgroup TaskPlugin=task/cgroup,task/affinity JobAcctGatherType=jobacct_gather/cgroup
        SelectTypeParameters=CR_Core_Memory"
    # groups stay behind when the hosts are gone
    trap 'kill -KILL $(jobs -p) 2>/dev/null || true; wait; find /sys/fs/cgroup/*/slurm_node* -depth -type d -exec rmdir {} + 2>/dev/null || true' EXIT
else
    groups=CgroupPlugin=disabled
    plugins="ProctrackType=proctrack/linuxproc TaskPlugin=task/none JobAcctGatherType=jobacct_gather/none
        SelectTypeParameters=CR_Core"
fi
head -c 1024 /dev/urandom >"$state/munge.key"
chmod 600 "$state/munge.key"
# shellcheck disable=SC2086
printf '%s\n' $groups >"$state/cgroup.conf"
# shellcheck disable=SC2086
printf '%s\n' $plugins >"$state/slurm.conf"
cat >>"$state/slurm.conf" <<SETTINGS
ClusterName=test
SlurmctldHost=${hosts[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$state/munge.socket,cred_expire=5
StateSaveLocation=$state
SlurmdSpoolDir=$state/spool-%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
MailProg=/bin/true
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SlurmdParameters=config_overrides
NodeName=$names CPUs=2 CoresPerSocket=2 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES
SETTINGS
export SLURM_CONF=$state/slurm.conf

munged --foreground --force --key-file="$state/munge.key" --socket="$state/munge.socket" --pid-file="$state/munge.pid" \
    --log-file="$state/munge.log" --seed-file="$state/munge.seed" >"$state/munge.out" 2>&1 &
mount --bind "$state/ssh" "$home/.ssh"
sshd=$(command -v sshd)
for host in "${hosts[@]}"; do
    mkdir "$state/spool-$host"
    # shellcheck disable=SC2016
    "$on_host" "$host" "mount --bind $state/ssh $home/.ssh; \
        $sshd -f /dev/null -o HostKey=$state/$host.key -o StrictModes=no -o PidFile=none; \
        SLURM_CONF=$SLURM_CONF exec $(command -v slurmd) -D -N $host" >"$state/slurmd-$host.out" 2>&1 </dev/null &
done
slurmctld -D >"$state/slurmctld.out" 2>&1 </dev/null &
for ((tries = 0; tries < 200; tries++)); do
    [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null || true)" != "${#hosts[@]}" ] || break
    sleep 0.1
done
[ "$tries" -lt 200 ] || cannot "Slurm does not come up: $(tail -n 3 "$state"/*.out)"

status=0
"$@" || status=$?
exit "$status"
