#!/bin/bash
# Installs what the tests need, builds, and runs every test.
#
#   ./test.sh [options] [PHASE...]
#
#   PHASE          run only these (default: all, in this order):
#                    layering  format  build  unit  field  fuzz  parity  mpi  install  cluster  tidy  asan  tsan
#   --long         longer matrices: RIDGELINE_TEST_LONG=1 for the tests, clang-tidy over every file, ten minutes of
#                  libFuzzer for each target with a corpus
#   --no-install   use what is installed, touch no package
#   --help         this text
#
# Every phase prints its time, and why it is skipped where it cannot be (cluster: root and Slurm are needed); the last
# line is the sum: "N passed, N failed". Exits 1 when anything failed. While tests wait, asan and tsan to come are built
# in the background; their own times are what is left then.
# Environment: RIDGELINE_JOBS (default: number of processors), RIDGELINE_TIDY_SECONDS (default 60).
set -euo pipefail
cd "$(dirname "$0")"

all_phases=(layering format build unit field fuzz parity mpi install cluster tidy asan tsan)
phases=()
install=1
long=0
while [ $# -gt 0 ]; do
  case $1 in
    --long) long=1 ;;
    --no-install) install=0 ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    -*) echo "test.sh: unknown option '$1' (see --help)" >&2; exit 2 ;;
    *)
      if [[ " ${all_phases[*]} " != *" $1 "* ]]; then
        echo "test.sh: no phase '$1' (phases: ${all_phases[*]})" >&2; exit 2
      fi
      phases+=("$1") ;;
  esac
  shift
done
if [ ${#phases[@]} -eq 0 ]; then phases=("${all_phases[@]}"); fi

jobs=${RIDGELINE_JOBS:-$(nproc)}
if [ $long = 1 ]; then export RIDGELINE_TEST_LONG=1; fi
# A second clone elsewhere on the machine finds the first one's objects.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
export CTEST_OUTPUT_ON_FAILURE=1
# Open MPI refuses root and more ranks than cores unless told; MPICH ignores these.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
# hwloc's plugins, which MPI loads where they are installed, leak what they allocate.
export HWLOC_PLUGINS_PATH=/nowhere
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1:strict_string_checks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}

logs=build/test-logs
mkdir -p "$logs"
passed=0
failed=0
summary=()

# configure PRESET [-DKEY=VALUE...]
configure() {
  local preset=$1
  shift
  cmake --preset "$preset" -DRIDGELINE_TESTS=ON "$@" >"$logs/configure-$preset.log" 2>&1 ||
    { tail -n 30 "$logs/configure-$preset.log"; return 1; }
}

# build PRESET TARGET...: quiet unless it fails.
build() {
  local preset=$1
  shift
  cmake --build "build/$preset" --parallel "$jobs" --target "$@" >"$logs/build-$preset.log" 2>&1 ||
    { grep -E -A 15 'FAILED|error' "$logs/build-$preset.log" | head -n 60; tail -n 3 "$logs/build-$preset.log"; return 1; }
}

# run_ctest PRESET LABELS [ctest options]: adds the tests' counts to the sum; no test at all is a failure.
run_ctest() {
  local preset=$1 labels=$2 log="$logs/ctest-$1-$phase.log" status=0 ran bad
  shift 2
  ctest --test-dir "build/$preset" --no-tests=error --label-regex "^($labels)\$" "$@" 2>&1 | tee "$log" || status=$?
  ran=$(sed -n 's/^.*tests failed out of \([0-9]*\).*$/\1/p' "$log" | tail -n 1)
  bad=$(sed -n 's/^.*tests passed, \([0-9]*\) tests failed.*$/\1/p' "$log" | tail -n 1)
  if [ -z "$ran" ] || [ -z "$bad" ]; then
    echo "test.sh: no test has the label '$labels' in build/$preset"
    failed=$((failed + 1))
    return 1
  fi
  passed=$((passed + ran - bad))
  failed=$((failed + bad))
  return $status
}

# check COMMAND...: something that counts as one test.
check() {
  if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); return 1; fi
}

# Targets that the tests with a label need: the programs of the build folder that their commands name.
targets_with_label() {
  {
    ninja -C "build/$1" -t targets all | sed -n 's/^\([A-Za-z0-9_]*\): .*$/target \1/p'
    ctest --test-dir "build/$1" -N --label-regex "^($2)\$" | sed -n 's/^ *Test *#[0-9]*: \(.*\)$/test \1/p'
    find "build/$1" -name CTestTestfile.cmake -exec grep -h '^add_test(' {} + |
      sed -E 's/^add_test\((\[=\[)?([A-Za-z0-9_]+)(\]=\])? /command \2 /'
  } | awk -v folder="\"$PWD/build/$1/" '
    $1 == "target" { is_target[$2] = 1 }
    $1 == "test" { is_wanted[$2] = 1 }
    $1 == "command" && is_wanted[$2] {
      found = 0
      for (i = 3; i <= NF; i++) {
        if (index($i, folder) != 1) continue
        program = substr($i, length(folder) + 1)
        sub(/"\)?$/, "", program)
        if (program in is_target) { print program; found = 1 }
      }
      if (!found) print "all"  # a test that names no program of ours may need anything
    }' | sort -u
}

# The preset of a phase with sanitizers, and the labels of the tests that it runs.
declare -A preset_of=([asan]=asan-ubsan [tsan]=tsan) labels_of=([asan]='unit|fuzz' [tsan]=threads)

# sanitizer_builds PHASE: what its tests need.
sanitizer_builds() {
  local preset=${preset_of[$1]} targets
  configure "$preset" -DRIDGELINE_BENCH=OFF || return 1
  targets=$(targets_with_label "$preset" "${labels_of[$1]}")
  # shellcheck disable=SC2086
  if [ -n "$targets" ]; then build "$preset" $targets; fi
}

# Tests wait for each other, for timeouts and for the last of them. What sanitizer phases to come need is built in such
# moments: in the background, with the lowest priority, which leaves next to nothing to a build while tests want all
# processors. The phase itself ends that and builds the rest.
ahead=
build_ahead() {
  local phase
  if [ -n "$ahead" ]; then return 0; fi
  set -m  # in a process group, to be ended as one
  (
    trap - EXIT
    renice --priority 19 --pid "$BASHPID"
    for phase in "${phases[@]:$begun_phases}"; do
      if [ -n "${preset_of[$phase]:-}" ]; then sanitizer_builds "$phase"; fi
    done
  ) </dev/null >"$logs/ahead.log" 2>&1 &
  ahead=$!
  set +m
}
end_ahead() {
  if [ -n "$ahead" ] && jobs -pr | grep -qx "$ahead"; then
    kill -TERM -- "-$ahead" || true
    wait "$ahead" 2>/dev/null || true
    # Ninja first removes what was half written.
    for _ in {1..100}; do
      kill -0 -- "-$ahead" 2>/dev/null || break
      sleep 0.1
    done
  fi
  ahead=
}
trap end_ahead EXIT

# Tracked and new sources, most recently changed first, so that a limited check looks at what was just written.
sources() {
  if command -v git >/dev/null && git -c safe.directory='*' rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    {
      git -c safe.directory='*' ls-files --modified --others --exclude-standard
      git -c safe.directory='*' log --format= --name-only
      git -c safe.directory='*' ls-files
    } | awk '!seen[$0]++'
  else
    find . -path ./build -prune -o -type f -printf '%T@ %P\n' | sort -rn | cut -d' ' -f2-
  fi | grep -E '^(src|tests|bench)/.*\.(cpp|h)$' | while read -r file; do
    if [ -f "$file" ]; then echo "$file"; fi
  done
}

phase_layering() {
  check tools/check_layering --self-test
  check tools/check_layering
}

format_is_kept() { sources | xargs -r clang-format --dry-run --Werror; }
phase_format() { check format_is_kept; }

release_is_built=0
release_builds() { configure release && build release all && release_is_built=1; }
phase_build() { check release_builds; }

# The phases below stand on an up-to-date release build, also when they are asked for alone.
with_release() {
  if [ $release_is_built = 0 ]; then release_builds || return 1; fi
  build_ahead
}
phase_unit() { with_release && run_ctest release unit -j "$jobs"; }
phase_field() { with_release && run_ctest release field -j "$jobs"; }
# --long: ten minutes of libFuzzer for each target that has a corpus.
phase_fuzz() {
  with_release && run_ctest release fuzz -j "$jobs" || return 1
  if [ $long = 1 ]; then check tools/fuzz --seconds 600; fi
}
phase_parity() { with_release && run_ctest release parity --label-exclude '^mpi$' -j "$jobs"; }
phase_mpi() { with_release && run_ctest release mpi -j "$jobs"; }
phase_install() { with_release && run_ctest release install; }
# Each of its cases counts. Bounds of time that a busy machine misses are printed, and fail nothing.
phase_cluster() {
  local log="$logs/cluster.log" status=0 counts
  with_release || return 1
  tests/cluster/run --program build/release/ridgeline 2>&1 | tee "$log" || status=$?
  if [ $status = 77 ]; then
    skipped=$(sed -n 's/^SKIPPED: //p' "$log")
    return 0
  fi
  read -r -a counts <<<"$(sed -n 's/^\([0-9]*\) ok, \([0-9]*\) missed, \([0-9]*\) failed .*/\1 \2 \3/p' "$log")"
  if [ ${#counts[@]} = 3 ]; then
    passed=$((passed + counts[0] + counts[1]))
    failed=$((failed + counts[2]))
  fi
  return $status
}

# clang-tidy on the most recently changed files for RIDGELINE_TIDY_SECONDS; --long looks at every file.
changed_files_are_tidy() {
  local seconds=${RIDGELINE_TIDY_SECONDS:-60}
  if [ $long = 1 ]; then seconds=100000; fi
  local deadline=$(($(date +%s) + seconds))
  sources | grep '\.cpp$' >"$logs/tidy-files"
  # A command for every file. clang cannot read what GCC precompiled, and a file is to include what it uses.
  configure release -B build/tidy -DRIDGELINE_UNITY=OFF || return 1
  sed -E -i 's/ -fpch-preprocess| -Winvalid-pch| -include [^ ]*cmake_pch\.hxx//g' build/tidy/compile_commands.json
  export deadline
  # shellcheck disable=SC2016
  xargs -a "$logs/tidy-files" -P "$jobs" -I{} bash -c '
    if [ "$(date +%s)" -ge "$deadline" ]; then echo "skipped {}"; exit 0; fi
    grep -qF "$PWD/{}" build/tidy/compile_commands.json || { echo "no target compiles {}"; exit 0; }
    if clang-tidy -p build/tidy --quiet {} >"$0/tidy.$$" 2>/dev/null; then echo "tidy {}"; else echo "untidy {}"; cat "$0/tidy.$$"; fi
    rm -f "$0/tidy.$$"' "$logs" >"$logs/tidy.log"
  local tidy skipped
  tidy=$(grep -c '^tidy ' "$logs/tidy.log" || true)
  skipped=$(grep -c '^skipped ' "$logs/tidy.log" || true)
  grep '^no target' "$logs/tidy.log" || true
  if grep -q '^untidy ' "$logs/tidy.log"; then
    grep -v -E '^(tidy|skipped|no target) ' "$logs/tidy.log" | head -n 80
    return 1
  fi
  echo "clang-tidy: $tidy files, $skipped older ones left for --long"
}
phase_tidy() { check changed_files_are_tidy; }

# sanitized PHASE [ctest options]: builds what its tests need, and runs them.
sanitized() {
  local phase=$1
  shift
  end_ahead
  check sanitizer_builds "$phase" || return 1
  build_ahead
  run_ctest "${preset_of[$phase]}" "${labels_of[$phase]}" "$@"
}
phase_asan() { sanitized asan -j "$jobs"; }
phase_tsan() { sanitized tsan -j "$jobs"; }

minutes() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

started=$(date +%s)
if [ $install = 1 ]; then
  tools/install_packages build test corpus
  # Nothing but its own phase depends on these.
  if [[ " ${phases[*]} " == *" fuzz "* ]] && [ $long = 1 ]; then tools/install_packages fuzz; fi
  if [[ " ${phases[*]} " == *" cluster "* ]] && [ "$(id -u)" = 0 ]; then tools/install_packages cluster || true; fi
fi
begun_phases=0
for phase in "${phases[@]}"; do
  echo "== $phase"
  begun=$(date +%s)
  begun_phases=$((begun_phases + 1))
  failed_before=$failed
  status=0
  skipped=
  set +e
  "phase_$phase"
  status=$?
  set -e
  # A phase that ended early without counting its failure still counts.
  if [ $status != 0 ] && [ "$failed" = "$failed_before" ]; then failed=$((failed + 1)); fi
  word=ok
  if [ "$failed" != "$failed_before" ]; then word=FAILED; fi
  if [ -n "$skipped" ]; then word="skipped: $skipped"; fi
  summary+=("$(printf '%-10s %6s  %s' "$phase" "$(minutes $(($(date +%s) - begun)))" "$word")")
  echo "== $phase $word in $(minutes $(($(date +%s) - begun)))"
  if [ "$phase" = build ] && [ "$word" = FAILED ]; then break; fi
done

echo
printf '%s\n' "${summary[@]}"
echo "all        $(printf '%6s' "$(minutes $(($(date +%s) - started)))")"
echo "$passed passed, $failed failed"
if [ "$failed" != 0 ]; then exit 1; fi
