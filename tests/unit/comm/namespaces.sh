#!/bin/bash
# The conformance cases between two hosts that share nothing but a network: namespaces with names of their own, ranks 0
# and 1 in one, 2 and 3 in the other, connected by a virtual link. Then a rank is killed.
#   namespaces.sh PROGRAM          exit code 77: this machine cannot try it, and why
set -uo pipefail
program=$1
if [ "$(id -u)" != 0 ]; then echo "skipped: network namespaces need root" && exit 77; fi
if ! command -v ip nsenter >/dev/null; then echo "skipped: needs iproute2 and util-linux" && exit 77; fi
if ! unshare --net --uts true 2>/dev/null; then echo "skipped: namespaces are not allowed here" && exit 77; fi
folder=$(mktemp -d) || exit 1
holders=()
clean_up() {
  kill "${holders[@]}" 2>/dev/null
  rm -rf "$folder"
}
trap clean_up EXIT
failed=0
complain() {
  echo "FAILED: $*"
  sed 's/^/    /' "$folder/said"
  failed=1
}

# A host is a sleeping process and what runs in its namespaces; they end with it.
for host in 0 1; do
  unshare --net --uts sleep 280 &
  holders+=($!)
  until [ "$(readlink /proc/$!/ns/uts)" != "$(readlink /proc/self/ns/uts)" ]; do sleep 0.01; done
done
# on HOST COMMAND...
on() {
  local holder=${holders[$1]}
  shift
  nsenter --target "$holder" --net --uts "$@"
}
if ! ip link add ridge0 netns "${holders[0]}" type veth peer name ridge1 netns "${holders[1]}" 2>"$folder/said"; then
  echo "skipped: no virtual links here: $(cat "$folder/said")"
  exit 77
fi
for host in 0 1; do
  on $host hostname host$host
  on $host ip link set lo up
  on $host ip address add 10.231.7.$((host + 1))/24 dev ridge$host
  on $host ip link set ridge$host up
done

# run ARGUMENT...: the program as four ranks; its output in $folder/said, its exit statuses in $statuses.
run() {
  local rank
  local -a ranks=()
  statuses=()
  for rank in 0 1 2 3; do
    on $((rank / 2)) env RIDGELINE_RENDEZVOUS=10.231.7.1:29400 RIDGELINE_RANK=$rank RIDGELINE_WORLD_SIZE=4 \
      COMM_TEST_RANKS_PER_HOST=2 timeout -s KILL 120 "$program" "$@" >>"$folder/said" 2>&1 </dev/null &
    ranks+=($!)
  done
  for rank in "${ranks[@]}"; do
    wait "$rank"
    statuses+=($?)
  done
}
# Bytes that the first host has sent.
sent() { on 0 awk '$1 == "ridge0:" { print $10 }' /proc/net/dev; }

: >"$folder/said"
run
[ "${statuses[*]}" = "0 0 0 0" ] || complain "the cases end with ${statuses[*]}"
grep -q 'cases on 4 ranks passed' "$folder/said" || complain "the cases did not pass"
[ "$(sent)" -gt 100000000 ] || complain "only $(sent) bytes went over the link"
echo "conformance: $(grep 'passed' "$folder/said"); $(sent) bytes over the link"

: >"$folder/said"
COMM_TEST_FAILURE_FILE=$folder/file run die kill
for status in "${statuses[@]}"; do [ "$status" -ne 0 ] || complain "a rank ends with 0 after a death"; done
[ "$(grep -c '^failure: ' "$folder/said")" -eq 1 ] || complain "not named exactly once"
grep -q '^failure: .*rank 1 on host host0 died' "$folder/said" || complain "rank 1 is not named"
exit $failed
