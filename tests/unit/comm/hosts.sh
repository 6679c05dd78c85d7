#!/bin/bash
# Four ranks on pretended hosts of one or two; a rank or a watcher gets a signal. The culprit must be named exactly once
# on stderr and in the failure file, and every process must be gone in time, the watchers too.
#   hosts.sh LAUNCHER PROGRAM RANKS_PER_HOST CASE
# Environment: COMM_SLACK_MS (default 0): what a loaded machine gets on top of the bounds, which are 2 s to name who died
# and 5 s to be gone; for who stops, the timeout of 1.5 s and 3 s more, and as long again for stopped processes.
set -uo pipefail
launch=$1 program=$2 per_host=$3 how=$4
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
failed=0
complain() {
  echo "FAILED: $how, $per_host ranks per host: $*"
  sed 's/^/    /' "$folder/stderr"
  failed=1
}
milliseconds() { echo $(($(date +%s%N) / 1000000)); }
# runs PROCESS: it may be dead and not fetched yet.
runs() { [ -e "/proc/$1/stat" ] && ! grep -q ') Z' "/proc/$1/stat" 2>/dev/null; }
# watcher RANK: of the host whose first rank it is.
watcher() { pgrep -P "$(cat "$folder/rank.$1")" -x ridgeline-watch; }

# Between real hosts there is no memory to be shared: where MPICH reads that of a dead process it aborts the reader.
export UCX_TLS=tcp,self
export RIDGELINE_RANKS_PER_HOST=$per_host COMM_TEST_FOLDER=$folder COMM_TEST_FAILURE_FILE=$folder/file
export COMM_TEST_LOG_FOLDER=$folder/logs
timeout -s KILL 60 "$launch" -n 4 "$program" die run >"$folder/stdout" 2>"$folder/stderr" </dev/null &
launcher=$!
for _ in $(seq 300); do
  if [ -e "$folder/rank.0" ] && [ -e "$folder/rank.1" ] && [ -e "$folder/rank.2" ] && [ -e "$folder/rank.3" ]; then break; fi
  sleep 0.1
done
[ -e "$folder/rank.3" ] || { complain "the ranks do not begin"; exit 1; }
watchers=()
for ((rank = 0; rank < 4; rank += per_host)); do watchers+=("$(watcher $rank)"); done
ranks_of_2=$([ "$per_host" = 1 ] && echo 'rank 2' || echo 'ranks 2-3')
ranks_of_0=$([ "$per_host" = 1 ] && echo 'rank 0' || echo 'ranks 0-1')
signal=KILL named=2000 gone=5000
case $how in
  kill_rank) victim=$(cat "$folder/rank.2") text='rank 2 on host .* died' culprit=2 ;;
  kill_first_rank) victim=$(cat "$folder/rank.0") text='rank 0 on host .* died' culprit=0 ;;
  stop_rank) victim=$(cat "$folder/rank.2") text='rank 2 on host .* does not run' culprit=2 signal=STOP named=4500 gone=8000 ;;
  kill_watcher) victim=$(watcher 2) text="host .* ($ranks_of_2) does not answer" culprit='(2|-1)' ;;
  kill_first_watcher) victim=$(watcher 0) text="host .* ($ranks_of_0) does not answer" culprit='(0|-1)' ;;
  # Nobody waits for too long: only the silence of 2 s tells.
  stop_watcher) victim=$(watcher 2) text="host .* ($ranks_of_2) does not answer" culprit='(2|-1)' signal=STOP named=4500 gone=8000 ;;
  *) echo "no case '$how'" >&2 && exit 2 ;;
esac
slack=${COMM_SLACK_MS:-0}
begin=$(milliseconds)
kill -$signal "$victim"
said_after=-1
while kill -0 $launcher 2>/dev/null; do
  if [ $said_after -lt 0 ] && grep -q '^failure: ' "$folder/stderr"; then
    said_after=$(($(milliseconds) - begin))
    # A watcher that wakes up has nothing to add, and leaves.
    if [ "$how" = stop_watcher ]; then sleep 0.5 && kill -CONT "$victim"; fi
  fi
  sleep 0.02
done
wait $launcher
status=$?
launcher_after=$(($(milliseconds) - begin))
if [ $said_after -lt 0 ]; then said_after=$(($(milliseconds) - begin)); fi
for process in "${watchers[@]}"; do
  while runs "$process" && [ $(($(milliseconds) - begin)) -lt 20000 ]; do sleep 0.02; done
done
gone_after=$(($(milliseconds) - begin))
echo "$how, $per_host ranks per host: exit status $status, named after $said_after ms, launcher gone after $launcher_after ms, all after $gone_after ms"
grep '^failure: ' "$folder/stderr"
[ $status -ne 0 ] || complain "exit status 0"
[ $said_after -le $((named + slack)) ] || complain "named after $said_after ms"
[ $gone_after -le $((gone + slack)) ] || complain "gone after $gone_after ms"
[ "$(grep -c '^failure: ' "$folder/stderr")" -eq 1 ] || complain "not named exactly once"
grep -q "^failure: .*$text" "$folder/stderr" || complain "does not say '$text'"
grep -qE "^rank: $culprit\$" "$folder/file" || complain "the file does not name rank $culprit: $(head -n 1 "$folder/file")"
grep -q "^failure: .*$text" "$folder/file" || complain "the file does not say '$text'"
case $how in
  kill_*rank) doing=dead ;;
  stop_rank) doing=stopped ;;
  *) doing= ;;
esac
# A watcher that is gone or stopped writes nothing of its host.
if [ -n "$doing" ]; then
  log=$folder/logs/rank-000$culprit.log
  grep -qx "log: $log" "$folder/file" || complain "the file does not name the log"
  grep -q "^  this rank is $doing" "$log" || complain "the log does not say '$doing': $(cat "$log")"
  for rank in 0 1 2 3; do
    grep -qE "^ +[0-9.]+  (all_reduce 'gradient' \(segment 0|barrier 'end of step' \()" "$folder/logs/rank-000$rank.log" ||
      complain "no operations in the log of rank $rank"
  done
fi
if grep -qE 'MPI_[A-Z][a-z]+\(|Fatal error in' "$folder/stderr"; then complain "MPI speaks, too"; fi
exit $failed
