#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A SLURM cluster whose nodes are all this machine, to try the job scripts before a real queue does.
#   cluster/local-slurm.sh start [NODES]     start it (4 nodes); prints the export that commands need
#   cluster/local-slurm.sh run COMMAND...    a command with that cluster (sbatch, srun, squeue, ...)
#   cluster/local-slurm.sh batch SCRIPT...   sbatch, wait for the end, print the output; its status
#   cluster/local-slurm.sh stop
# Needs root and `tools/install-deps.sh slurm`. RILL_SLURM names the folder of its state
# (/tmp/rill-slurm). Exit status 77: cannot run here, and why.
set -eu
folder=${RILL_SLURM:-/tmp/rill-slurm}
export SLURM_CONF=$folder/slurm.conf

refuse() {
  echo "cluster/local-slurm.sh: $1" >&2
  exit 77
}

check_machine() {
  [ "$(id -u)" = 0 ] || refuse "only root can start nodes (namespaces); run it as root or with sudo"
  local program
  for program in munged slurmctld slurmd sbatch srun unshare setpriv; do
    command -v "$program" >/dev/null ||
      refuse "$program is not installed; run tools/install-deps.sh slurm"
  done
  unshare --mount --uts true 2>/dev/null || refuse "the kernel allows no mount namespaces here"
}

# SLURM's parts trust each other by munge, which refuses to run as root.
start_munge() {
  mkdir -p /run/munge
  chown munge: /run/munge
  if ! munge -n >/dev/null 2>&1; then
    setpriv --reuid munge --regid munge --clear-groups munged --force --pid-file /run/munge/rill.pid
  fi
}

write_configuration() { # NODES
  local name ports cores
  name=$(uname -n)
  cores=$(nproc)
  ports="[17101-$((17100 + $1))]"
  # Version 1 of cgroups keeps the daemons from waiting for a systemd that is not there.
  printf '%s\n' CgroupPlugin=cgroup/v1 CgroupAutomount=no ConstrainCores=no >"$folder/cgroup.conf"
  echo "PMIxCliTmpDirBase=$folder/pmix" >"$folder/mpi.conf"
  cat >"$SLURM_CONF" <<CONF
ClusterName=rill
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=17100
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MailProg=/bin/true
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=1
NodeName=node[1-$1] NodeHostname=$name NodeAddr=127.0.0.1 Port=$ports CPUs=$((cores > 8 ? cores : 8)) State=UNKNOWN
PartitionName=local Nodes=node[1-$1] Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
CONF
}

# A node has its own name, and its own /dev/shm and PMIx folder: Open MPI and PMIx name their files
# there by node, and would meet those of the others.
start_node() { # NAME
  mkdir -p "$folder/$1/spool"
  # shellcheck disable=SC2016  # the inner shell expands them
  unshare --mount --uts sh -eu -c '
    hostname "$1"
    mount -t tmpfs shm /dev/shm
    mount -t tmpfs pmix "$2/pmix"
    exec slurmd -f "$SLURM_CONF" -N "$1"' sh "$1" "$folder"
}

idle_nodes() { sinfo --noheader --states=idle --format=%D 2>/dev/null | awk '{ n += $1 } END { print n + 0 }'; }

start() { # NODES
  check_machine
  [ ! -e "$folder/slurmctld.pid" ] || stop
  rm -rf "$folder"
  mkdir -p "$folder/state" "$folder/pmix"
  start_munge
  write_configuration "$1"
  slurmctld -f "$SLURM_CONF"
  local node
  for node in $(seq -f node%g "$1"); do start_node "$node"; done
  for _ in $(seq 120); do
    if [ "$(idle_nodes)" = "$1" ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.25
  done
  sinfo >&2 || true
  tail -n 5 "$folder"/*.log "$folder"/*/*.log >&2
  stop
  echo "cluster/local-slurm.sh: the nodes did not come up in 30 s; the ends of their logs stand above" >&2
  exit 1
}

# Daemons write their state as they go, so their end is awaited: the folder may be removed after it.
stop() {
  local file pid pids=()
  scancel --user=root >/dev/null 2>&1 || true
  for file in "$folder"/*/slurmd.pid "$folder/slurmctld.pid" /run/munge/rill.pid; do
    if [ -f "$file" ]; then
      pid=$(cat "$file")
      if kill "$pid" 2>/dev/null; then pids+=("$pid"); fi
    fi
  done
  for _ in $(seq 100); do
    any_runs "${pids[@]}" || break
    sleep 0.1
  done
  if any_runs "${pids[@]}"; then kill -KILL "${pids[@]}" 2>/dev/null || true; fi
  rm -f "$folder"/*/slurmd.pid "$folder/slurmctld.pid" /run/munge/rill.pid
}

any_runs() { # PIDS...
  local pid
  for pid in "$@"; do
    if kill -0 "$pid" 2>/dev/null; then return 0; fi
  done
  return 1
}

batch() { # ARGUMENTS OF SBATCH...: fails as the job fails
  local out status=0
  out=$(mktemp "$folder/job.XXXXXX")
  sbatch --quiet --wait --output="$out" "$@" || status=$?
  cat "$out"
  return "$status"
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
  start) start "${1:-4}" ;;
  run) "$@" ;;
  batch) batch "$@" ;;
  stop) stop ;;
  *)
    sed -n '3,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
