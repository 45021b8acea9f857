# SPDX-License-Identifier: Apache-2.0
# What the experiments of this folder share: the machine's shape, launching ranks, CSV, plots and
# the record. cluster/README.md describes the RILL_ variables.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2086,SC2206  # the experiments use variables; lists are split into words
set -u -o pipefail
cluster_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${cluster_folder%/*}

give_up() {
  echo "$(basename "$0"): $1" >&2
  exit 2
}

# The machine

physical_cores() { # that this process may use: with hyper-threads, half of its CPUs
  local cores
  cores=$(lscpu -p=CORE,SOCKET | grep -v '^#' | sort -u | wc -l)
  echo $((cores < $(nproc) ? cores : $(nproc)))
}

numa_nodes() { lscpu -p=NODE | grep -v '^#' | sort -u | wc -l; }

powers_to() { # N...: 1,2,4,...,N for the programs; of several N all of them, each number once
  local last n
  for last in "$@"; do
    for ((n = 1; n < last; n *= 2)); do echo "$n"; done
    echo "$last"
  done | sort -nu | paste -sd,
}

# begin EXPERIMENT ARGUMENTS OF THE SCRIPT...: sets what the experiments go by:
#   local        yes or no: the reduced sizes
#   node_counts  the numbers of nodes to measure on
#   nodes        the greatest of them
#   per_node     ranks of a node, one for each of its NUMA nodes
#   cores        of a node; threads: of a rank
#   model        the words that name the model to `rill bench`
#   repetitions  of a measurement
begin() {
  experiment=$1
  shift
  local=no
  case "$*" in
    "") ;;
    --local) local=yes ;;
    *) give_up "'$*' is unknown; the only option is --local, a reduced run" ;;
  esac
  in_job=${SLURM_JOB_ID:-}
  if [ "$local" = no ] && [ -z "$in_job" ]; then
    give_up "this is a job of SLURM: sbatch cluster/$experiment.sbatch (or run it here, reduced, with --local)"
  fi
  load_modules
  programs=${RILL_PROGRAMS:-$root/build/bin}
  [ -x "$programs/rill" ] || give_up "there is no program $programs/rill; build Rill (make), or let RILL_PROGRAMS name its folder"
  choose_shape
  choose_model
  choose_launcher
  open_results
}

load_modules() {
  [ -n "${RILL_MODULES:-}" ] || return 0
  local start
  for start in /etc/profile.d/lmod.sh /etc/profile.d/modules.sh; do
    # shellcheck disable=SC1090
    type module >/dev/null 2>&1 || [ ! -r "$start" ] || . "$start"
  done
  module load $RILL_MODULES || give_up "'module load $RILL_MODULES' failed; correct RILL_MODULES"
}

choose_shape() {
  local most=${SLURM_JOB_NUM_NODES:-2}
  if [ -n "${RILL_NODES:-}" ]; then
    node_counts=$RILL_NODES
  else
    node_counts=$(powers_to "$most" | tr , ' ')
  fi
  nodes=$(printf '%s\n' $node_counts | sort -n | tail -n 1)
  [ -z "$in_job" ] || [ "$nodes" -le "$most" ] ||
    give_up "RILL_NODES asks for $nodes nodes and the job has $most; submit with --nodes=$nodes"
  cores=${RILL_CORES:-$(physical_cores)}
  per_node=${RILL_RANKS_PER_NODE:-$(numa_nodes)}
  threads=$((cores / per_node))
  # Without a job the nodes are played by processes of this machine, which has their cores in all.
  [ -n "$in_job" ] || threads=1
  [ "$threads" -ge 1 ] || threads=1
}

choose_model() {
  if [ "$local" = yes ]; then
    model=("$root/models/rill-demo")
    repetitions=${RILL_REPETITIONS:-1}
  elif [ -n "${RILL_MODEL:-}" ]; then
    model=("$RILL_MODEL" --weights "${RILL_WEIGHTS:-auto}")
    repetitions=${RILL_REPETITIONS:-5}
  else
    model=(--shape "${RILL_SHAPE:-qwen3-0.6b}" --weights "${RILL_WEIGHTS:-bf16}")
    repetitions=${RILL_REPETITIONS:-5}
  fi
}

# Launching

choose_launcher() {
  local usual=srun
  [ -n "$in_job" ] || usual=mpirun
  launcher=${RILL_LAUNCHER:-$usual}
  case "$launcher" in
    mpirun | srun) ;;
    *) give_up "RILL_LAUNCHER is '$launcher'; use srun or mpirun" ;;
  esac
  [ "$launcher" = mpirun ] || [ -n "$in_job" ] || give_up "RILL_LAUNCHER=srun needs a job of SLURM; use sbatch, or mpirun"
  command -v "$launcher" >/dev/null || give_up "there is no $launcher; load the module that has it (RILL_MODULES), or let RILL_LAUNCHER name the other one, srun or mpirun"
}

# A rank and its threads stay on a NUMA node, where their memory is.
launch_words() { # NODES RANKS_PER_NODE THREADS: sets `words`
  local ranks=$(($1 * $2))
  words=()
  [ "$ranks" -gt 1 ] || return 0
  case "$launcher" in
    srun)
      words=(srun "--mpi=${RILL_SRUN_MPI:-pmix}" --kill-on-bad-exit=1 "--nodes=$1" "--ntasks=$ranks" "--ntasks-per-node=$2")
      words+=("--cpus-per-task=$(cpus_of_rank "$2")" --cpu-bind=cores ${RILL_SRUN_ARGS:-})
      ;;
    mpirun)
      words=(mpirun -n "$ranks")
      if ! mpirun --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE'; then
        [ -z "$in_job" ] || words+=(-ppn "$2" -bind-to numa)
      elif [ -z "$in_job" ]; then
        words+=(--oversubscribe)
      elif [ "$2" = "$(numa_nodes)" ]; then
        words+=(--map-by ppr:1:numa --bind-to numa)
      else
        words+=(--map-by "ppr:$2:node" --bind-to none)
      fi
      words+=(${RILL_MPIRUN_ARGS:-})
      ;;
  esac
}

cpus_of_rank() { # RANKS_PER_NODE: in CPUs of SLURM, which may be hyper-threads
  local cpus=${SLURM_CPUS_ON_NODE:-$cores}
  echo $((cpus / $1 > 0 ? cpus / $1 : 1))
}

# measure NODES RANKS_PER_NODE THREADS COMMAND...: `rill COMMAND` there, its rows added to the table.
# THREADS, of a rank, may be a list. A failure is told and does not end the experiment.
measure() {
  local words began=$SECONDS status=0 where="$1,$2,$(($1 * $2)),$launcher" rows
  launch_words "$1" "$2" "$3"
  [ ${#words[@]} -gt 0 ] || where="1,1,1,none"
  shift 2
  words+=("$programs/rill" "$2" -t "$1" "${@:3}" -r "$repetitions" -o csv)
  echo "$ ${words[*]}" | tee -a "$record"
  "${words[@]}" >"$work/out" 2>"$work/err" </dev/null || status=$?
  cat "$work/err" >>"$record"
  rows=$(grep -c '^"' "$work/out")
  echo "# exit status $status, $((SECONDS - began)) s, $rows rows" >>"$record"
  if [ "$rows" -gt 0 ]; then
    [ -s "$csv" ] || { printf 'table,run,nodes,ranks_per_node,ranks,launcher,' && grep -m1 -v '^"' "$work/out"; } >"$csv"
    grep '^"' "$work/out" | sed "s/^/\"$table\",\"$run\",\"${where//,/\",\"}\",/" >>"$csv"
  fi
  # Its rows were printed, but a ceiling was measured too low: times count, percentages do not.
  if [ "$status" -ne 0 ]; then
    cat "$work/err" >&2
    [ "$rows" -gt 0 ] || failures=$((failures + 1))
  fi
}

# shapes NODES: the ways, TPxSP, in which the ranks of so many nodes share a model, each once:
# headwise as far as it goes (tp is 8 at most), headwise in a node and sequence between nodes, and
# sequence alone.
shapes() {
  local ranks=$(($1 * per_node)) tp
  for tp in $((ranks < 8 ? ranks : 8)) "$per_node" 1; do
    [ $((ranks % tp)) -ne 0 ] || [ "$tp" -gt 8 ] || echo "${tp}x$((ranks / tp))"
  done | awk '!seen[$0]++'
}

# communication NODES: the constants for `rill plan --constants`, measured between their ranks.
communication() {
  [ "$local" = no ] || return 0 # it takes most of a minute
  local words constants=$results/$experiment-comm-$run.json
  launch_words "$1" "$per_node" "$threads"
  words+=("$programs/rill" bench --comm -t "$threads" -o json)
  echo "$ ${words[*]} >$constants" | tee -a "$record"
  "${words[@]}" >"$constants" 2>>"$record" </dev/null || failures=$((failures + 1))
}

# Results

open_results() {
  run=${in_job:-here}
  [ "$local" = no ] || run=$run-local
  results=${RILL_RESULTS:-results}
  mkdir -p "$results" || give_up "the folder $results cannot be made; let RILL_RESULTS name another"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  record=$results/$experiment-$run.txt
  failures=0
  write_machine >"$record" 2>&1
}

write_machine() {
  echo "experiment: $experiment, run $run"
  echo "date: $(date -u +%Y-%m-%dT%H:%M:%SZ)"
  echo "rill: $("$programs/rill" --version), $(git -C "$cluster_folder" describe --always --dirty 2>/dev/null || echo 'no git')"
  echo "compiler: $( (${CXX:-c++} --version || true) 2>/dev/null | head -n 1)"
  echo "mpi: $( (mpirun --version || true) 2>/dev/null | grep -m1 .)"
  [ -z "$in_job" ] || echo "slurm: $(sinfo --version), job $in_job on $SLURM_JOB_NODELIST"
  echo "modules: ${RILL_MODULES:-none}"
  echo "system: $(uname -srm)"
  echo "node: $(uname -n), $(lscpu | sed -n 's/^Model name: *//p' | head -n 1), $(numa_nodes) NUMA nodes, $cores cores used"
  echo "memory: $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
  echo "shape: $node_counts nodes, $per_node ranks on each, $threads threads each"
  [ -n "$in_job" ] || echo "note: all ranks are processes of this one machine"
  echo
  lscpu
  echo
  echo "commands:"
}

# A table and its drawing are named after the experiment and the run.
open_table() { # NAME: what a table of several is called, or the experiment itself
  table=$1
  csv=$results/$experiment-$run.csv
  [ "$1" = "$experiment" ] || csv=$results/$experiment-$1-$run.csv
  rm -f "$csv"
}

# awk over rows; value("column") is a field of the row. (Every field of the programs' rows is
# quoted, the header is not.)
on_rows() { # FILE PROGRAM ARGUMENTS OF awk...
  local file=$1 program=$2
  shift 2
  awk "$@" '
    function value(name) {
      if (!(name in column)) { print "there is no column " name > "/dev/stderr"; exit 1 }
      return field[column[name]]
    }
    FNR == 1 { n = split($0, field, ","); for (i = 1; i <= n; i++) column[field[i]] = i; header = $0 }
    FNR > 1 { line = $0; sub(/^"/, "", line); sub(/"$/, "", line); split(line, field, "\",\"") }
    '"$program" "$file"
}

# Adds the columns speedup and efficiency: over the row of the same KEYS with the fewest threads, and
# in percent of what its workers (threads of all ranks) would give.
add_speedup() { # KEYS...: names of columns
  [ -s "$csv" ] || return 0
  # shellcheck disable=SC2016  # awk's own
  on_rows "$csv" '
    function key(   i, text) { for (i = 1; i <= keys; i++) text = text "," value(name[i]); return text }
    BEGIN { keys = split(names, name, " ") }
    FNR == 1 { head = header; next }
    {
      all = value("ranks") * value("n_threads")
      row[++rows] = $0; of[rows] = key(); workers[rows] = all; rate[rows] = value("avg_ts")
      if (!(of[rows] in least) || all < least[of[rows]]) { least[of[rows]] = all; base[of[rows]] = rate[rows] }
    }
    END {
      print head ",speedup,efficiency"
      for (i = 1; i <= rows; i++) {
        gain = rate[i] / base[of[i]]
        printf "%s,\"%.3f\",\"%.1f\"\n", row[i], gain, 100 * gain * least[of[i]] / workers[i]
      }
    }' -v names="$*" >"$work/csv" && cp "$work/csv" "$csv"
}

# Draws the table: a curve for each value of the series' columns, those that vary.
draw() { # TITLE X Y SERIES...: names of columns
  [ -s "$csv" ] || return 0
  local title="$1 (run $run)" x=$2 y=$3 script=${csv%.csv}.gp
  shift 3
  # shellcheck disable=SC2016  # awk's own
  on_rows "$csv" '
    BEGIN { count = split(names, name, " "); numeric = 1 }
    FNR == 1 { next }
    {
      at = value(x); height = value(y); rows++
      xs[rows] = at; ys[rows] = height
      if (at !~ /^[0-9.]+$/) numeric = 0
      if (!(at in place)) { place[at] = ++places; at_place[places] = at }
      for (i = 1; i <= count; i++) { v = value(name[i]); of[rows, i] = v; if (rows > 1 && v != of[1, i]) varies[i] = 1 }
    }
    END {
      for (r = 1; r <= rows; r++) {
        label = ""
        for (i = 1; i <= count; i++) if (varies[i]) label = label (label == "" ? "" : ", ") name[i] " " of[r, i]
        if (!(label in curve)) { curve[label] = ++curves; labels[curves] = label }
        c = curve[label]
        data[c] = data[c] (numeric ? xs[r] : place[xs[r]]) " " ys[r] "\n"
      }
      printf "set terminal svg size 1000,700 noenhanced font \"sans,13\" background rgb \"white\"\n"
      printf "set title \"%s\"\nset xlabel \"%s\"\nset ylabel \"%s\"\n", title, x, y
      printf "set grid\nset key outside below\nset yrange [0:*]\nset offsets graph 0.03, graph 0.03, graph 0.03, 0\n"
      if (numeric) printf "set logscale x 2\n"
      printf "set xtics ("
      for (p = 1; p <= places; p++) printf "%s\"%s\" %s", p == 1 ? "" : ", ", at_place[p], numeric ? at_place[p] : p
      print ")"
      for (c = 1; c <= curves; c++) printf "$curve%d << EOD\n%sEOD\n", c, data[c]
      for (c = 1; c <= curves; c++)
        printf "%s$curve%d using 1:2 smooth unique with linespoints linewidth 2 pointtype %d title \"%s\"", c == 1 ? "plot " : ", ", c, c, labels[c]
      print ""
    }' -v names="$*" -v x="$x" -v y="$y" -v title="$title" >"$script" || { failures=$((failures + 1)); return; }
  if ! command -v gnuplot >/dev/null; then
    echo "no gnuplot here; draw it where there is one: gnuplot $script >${csv%.csv}.svg" | tee -a "$record"
  elif ! gnuplot "$script" >"${csv%.csv}.svg"; then
    failures=$((failures + 1))
  fi
}

show() { # COLUMNS...: the table for people
  [ -s "$csv" ] || return 0
  echo
  # shellcheck disable=SC2016  # awk's own
  on_rows "$csv" '
    BEGIN { count = split(names, name, " ") }
    {
      for (i = 1; i <= count; i++) {
        v = FNR == 1 ? name[i] : value(name[i])
        if (v ~ /^[0-9]+[.][0-9]+$/) v = sprintf("%.2f", v)
        printf "%s%*s", i == 1 ? "" : "  ", (length(name[i]) < 10 ? 10 : length(name[i])), v
      }
      print ""
    }' -v names="$*" | tee -a "$record"
}

finish() {
  echo
  if [ "$failures" -gt 0 ]; then
    echo "$experiment: $failures measurements failed; $record has the commands and their messages" >&2
    exit 1
  fi
  echo "$experiment: results are in $results/$experiment-*$run.{csv,svg,txt}"
}
