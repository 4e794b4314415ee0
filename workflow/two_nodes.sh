#!/usr/bin/env bash
#
# A Slurm cluster of two nodes on this machine, to try things with. docs/workflow.rst has
# the details. Wants root, and Debian's packages slurm-wlm and munge.

set -euo pipefail

if (($# != 2)) || [[ $1 != start && $1 != stop ]]; then
    cat <<'EOT'
two_nodes.sh start FOLDER
two_nodes.sh stop FOLDER

Starts, or stops, a Slurm cluster with the nodes n1 and n2, which are this machine twice, and a
partition "short". Each node has the cores of the machine and 40 % of its memory. FOLDER gets
the configuration, to which /etc/slurm/slurm.conf will be a link, and the logs; /etc/hosts gets
the names n1 and n2, which stay there.
EOT
    exit 2
fi

mkdir -p "$2"
folder=$(cd "$2" && pwd)
configuration=/etc/slurm/slurm.conf

if [[ $1 == stop ]]; then
    [[ $configuration -ef $folder/slurm.conf ]] || {
        echo "two_nodes.sh: error: no cluster of $folder is running" >&2
        exit 1
    }
    for file in "$folder"/*.pid; do
        [[ ! -e $file ]] || kill "$(cat "$file")" || true
    done
    rm -f "$configuration"
    exit
fi

for program in slurmctld slurmd munged; do
    command -v "$program" > /dev/null || {
        echo "two_nodes.sh: error: no $program; apt-get install slurm-wlm munge" >&2
        exit 1
    }
done

[[ ! -e $configuration ]] || {
    echo "two_nodes.sh: error: there is a cluster already: $configuration" >&2
    exit 1
}

# who is who, as Slurm's daemons tell each other
if ! munge -n 2> /dev/null | unmunge > /dev/null 2>&1; then
    mkdir -p /run/munge
    chown munge: /run/munge
    su munge -s /bin/bash -c "$(command -v munged)"
fi
# by which name the processes of a training find each other
grep -qw n1 /etc/hosts || echo "127.0.0.1 n1 n2" >> /etc/hosts

memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.4)}' /proc/meminfo)
mkdir -p "$folder"/{state,spool-n1,spool-n2}
ln -s "$folder/slurm.conf" "$configuration"
cat > "$configuration" <<EOT
ClusterName=two
SlurmctldHost=$(hostname)
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdSpoolDir=$folder/spool-%n
SlurmdLogFile=$folder/slurmd-%n.log
SlurmdTimeout=30
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MpiDefault=none
NodeName=n[1-2] NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=[17001-17002] \
CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=short Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
EOT
slurmctld
sleep 1
for node in n1 n2; do
    slurmd -N "$node"
done
sleep 2
sinfo
