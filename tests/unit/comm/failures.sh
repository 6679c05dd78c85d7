#!/bin/sh
# One rank of three dies, stops, stalls, throws, or does not come to make a communicator between hosts: the job must end within seconds and not with 0, the culprit (rank 1)
# must be named exactly once on stderr, and in the failure file.
#   failures.sh LAUNCHER PROGRAM
launch=$1 program=$2
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
failed=0
complain() {
  echo "FAILED: $how: $*"
  sed 's/^/    /' "$folder/stderr"
  failed=1
}
for how in kill stop stall exit throw absent; do
  operation="all_reduce 'gradient' \(segment 0, step 50\)"
  if [ $how = absent ]; then
    # MPI waits in its own call for those that make it; messages over TCP wait when there are some.
    export RIDGELINE_RANKS_PER_HOST=1
    operation="the start of communicator 'data'|all_reduce 'gradient' \(segment 0, step 0\)"
  fi
  for hook in with without; do
    rm -f "$folder/file"
    if [ $hook = without ]; then export COMM_TEST_NO_HOOK=1; else unset COMM_TEST_NO_HOOK; fi
    # Nobody but the watching process can speak for a rank that was killed, or does not come back out of MPI.
    if [ $hook = without ] && { [ $how = kill ] || [ $how = exit ] || [ $how = absent ]; }; then continue; fi
    begin=$(date +%s)
    COMM_TEST_FAILURE_FILE=$folder/file timeout -s KILL 60 "$launch" -n 3 "$program" die $how >"$folder/stdout" 2>"$folder/stderr" </dev/null
    status=$?
    seconds=$(($(date +%s) - begin))
    echo "$how, $hook hook: exit status $status after $seconds s"
    [ $status -ne 0 ] || complain "exit status 0"
    # The timeout of the test is 1.5 s; the rest is slack for a loaded machine.
    [ $seconds -le 10 ] || complain "took $seconds s"
    [ "$(grep -c '^failure: ' "$folder/stderr")" -eq 1 ] || complain "not named exactly once"
    grep -q '^failure: .*rank 1' "$folder/stderr" || complain "rank 1 is not named"
    [ -s "$folder/file" ] || complain "no failure file"
    grep -q '^rank: 1$' "$folder/file" || complain "the file does not name rank 1"
    grep -qE "$operation" "$folder/file" || complain "the file does not name the operation"
  done
done
exit $failed
