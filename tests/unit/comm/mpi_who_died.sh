#!/bin/bash
# Rank 1 dies, again and again, and must be named: when it is killed, and its neighbour, which reads its memory as MPI
# does, ends before it has given that back; and when it exits by itself, upon which the launcher kills its neighbours.
#   mpi_who_died.sh MPIEXEC PROGRAM TIMES
set -uo pipefail
mpiexec=$1 program=$2 times=$3
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
killed=0 exited=0
for ((run = 0; run < times; ++run)); do
  for how in read exit; do
    rm -f "$folder/file"
    COMM_TEST_FAILURE_FILE=$folder/file timeout -s KILL 60 "$mpiexec" -n 2 "$program" die $how \
      >"$folder/stdout" 2>"$folder/stderr" </dev/null
    if grep -q '^rank: 1$' "$folder/file" 2>/dev/null; then continue; fi
    echo "FAILED: $how: $(tr '\n' ' ' <"$folder/file")"
    sed 's/^/    /' "$folder/stderr"
    if [ $how = read ]; then killed=$((killed + 1)); else exited=$((exited + 1)); fi
  done
done
echo "$times times killed, another named $killed times; $times times ended by itself, another named $exited times"
# Where the launcher has killed the neighbour before the watcher came to look, nothing tells who was first.
[ $killed -eq 0 ] && [ $exited -le 1 ]
