#!/usr/bin/env bash
# A Slurm cluster of one node with two processors, on this machine's loopback, with everything it writes in one folder.
#
#   tests/slurm/start.sh FOLDER          start it; prints the variables that Slurm's programs want, for eval
#   tests/slurm/start.sh FOLDER --stop   stop it, by the process ids that it wrote down
#
# It needs Debian's packages slurm-wlm and munge, not systemd, and no rights but those of the user who starts it. munge,
# by which the parts trust each other, gets a key and a socket of its own. What goes wrong is in FOLDER/*.log.
set -euo pipefail

folder=$(realpath -m "${1:?the folder is missing}")
patience=20 # seconds until the node must be ready

main() {
    if [ "${2:-}" = --stop ]; then
        stop
        return
    fi
    # Debian has the daemons in /usr/sbin, which is not in every user's path.
    PATH=$PATH:/usr/sbin:/sbin
    for program in munged slurmctld slurmd sbatch srun scontrol; do
        command -v "$program" >/dev/null || fail "$program is not installed (Debian: slurm-wlm and munge)"
    done
    mkdir -p "$folder"
    cd "$folder"
    configure
    export SLURM_CONF="$folder/slurm.conf"
    trap 'stop' ERR
    # --force: munged would rather have a socket that every user can reach; one user is enough here.
    start munged --foreground --force --key-file=munge.key --socket="$folder/munge.socket" --pid-file=munged.own-pid \
        --log-file=munge.log --seed-file=munge.seed --num-threads=2
    wait_for "munged's socket" test -S munge.socket
    start slurmctld -D -c
    start slurmd -D -N lab
    wait_for "the node" eval 'sinfo --noheader --format=%T | grep -qx idle'
    trap - ERR
    echo "export SLURM_CONF=$SLURM_CONF"
}

configure() {
    (umask 077 && head -c 1024 /dev/urandom >munge.key)
    mkdir -p state spool
    read -r controller_port node_port <<<"$(free_ports)"
    # cred_expire: a job that is requeued waits that long before it may start again, 120 seconds by default.
    # RequeueExit: 75 is what a run ends with after SIGTERM (EX_TEMPFAIL: the same command goes on).
    cat >slurm.conf <<CONF
ClusterName=lab
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.own-pid
SlurmdPidFile=$folder/slurmd.own-pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
RequeueExit=75
NodeName=lab NodeHostname=$(hostname) NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=lab Nodes=lab Default=YES MaxTime=INFINITE State=UP
CONF
}

# Start a daemon that stays in the foreground, in a session of its own, and write down its process id.
start() {
    setsid "$@" >"$1.out" 2>&1 </dev/null &
    echo $! >"$1.pid"
}

stop() {
    export SLURM_CONF="$folder/slurm.conf"
    if [ -e "$folder/slurmd.pid" ]; then # jobs outlive slurmd
        timeout 5 scancel --user="$(id -un)" --full --signal=KILL 2>/dev/null || true
        timeout 5 bash -c 'until [ -z "$(squeue --noheader --states=running,completing)" ]; do sleep 0.1; done' || true
    fi
    local numbers=()
    for file in "$folder"/{slurmd,slurmctld,munged}.pid; do
        [ -e "$file" ] && numbers+=("$(cat "$file")")
    done
    kill "${numbers[@]}" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "${numbers[@]}" 2>/dev/null || break # it fails when all are gone
        sleep 0.1
    done
    kill -9 "${numbers[@]}" 2>/dev/null || true
    rm -f "$folder"/{slurmd,slurmctld,munged}.pid
}

wait_for() {
    local what=$1
    shift
    for _ in $(seq $((patience * 10))); do
        "$@" >/dev/null 2>&1 && return
        for pid in "$folder"/*.pid; do
            kill -0 "$(cat "$pid")" 2>/dev/null || fail "$(basename "$pid" .pid) has ended; $(last_words)"
        done
        sleep 0.1
    done
    fail "$what is not ready after $patience seconds; $(last_words)"
}

last_words() {
    tail -qn 3 "$folder"/*.out | tr '\n' ' '
}

free_ports() {
    python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in sockets))'
}

fail() {
    echo "slurm: $1" >&2
    stop
    exit 1
}

main "$@"
