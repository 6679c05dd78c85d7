#!/bin/bash
# Runs a job script of `ridgeline launch` with Slurm's commands played by small ones, and looks at how it ends.
#
#   script_ends.sh RIDGELINE SOURCE
set -euo pipefail
program=$(realpath "$1")
source=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin"
cd "$folder"
"$program" launch --site frontier --nodes 2 --out run "$source/configs/gptj_6b_fsdp.toml" >job.sbatch

# srun: does what the file `act` says; the others note that they were called.
cat >bin/srun <<'FAKE'
#!/bin/bash
printf '%s\n' "$@" >srun.words
# shellcheck disable=SC1091
. ./act
FAKE
printf '#!/bin/bash\necho "scontrol $*" >>calls\n' >bin/scontrol
printf '#!/bin/bash\ncat state\n' >bin/squeue
printf '#!/bin/bash\n' >bin/ridgeline
chmod +x bin/*
# shellcheck disable=SC2317  # the script calls it
module() { echo "module $*" >>calls; }
export -f module

failed=0
# ends NAME CODE WORDS CALLS: the script ends with the code, says the words, and has called these.
ends() {
  local code=0
  rm -rf calls logs
  PATH="$folder/bin:$PATH" SLURM_SUBMIT_DIR=$folder SLURM_JOB_ID=7 SLURM_JOB_NAME=job bash job.sbatch >slurm.out 2>&1 || code=$?
  if [ $code != "$2" ] || ! grep -qF -- "$3" logs/job-7.out || [ "$(cat calls)" != "$4" ]; then
    echo "FAILED: $1: code $code, said: $(cat slurm.out logs/job-7.out), called: $(cat calls)"
    failed=1
  fi
}
loads='module load PrgEnv-gnu'
again="$loads
scontrol requeue 7"
save='mkdir -p run/checkpoints/step_00000005; exit 75'

echo RUNNING >state
echo 'exit 0' >act
ends "a finished run" 0 finished "$loads"
for word in --ntasks=16 --resume-or-start train.threads=7; do
  if ! grep -qx -- $word srun.words; then echo "FAILED: srun was not given $word"; failed=1; fi
done
echo 'exit 3' >act
ends "a run that failed" 3 "failed with exit code 3" "$loads"
echo 'exit 75' >act
ends "a stop without a checkpoint" 1 "without a newer checkpoint" "$loads"
echo "$save" >act
ends "a stop" 0 "queued again" "$again"
ends "a stop at the checkpoint that it began with" 1 "without a newer checkpoint" "$loads"
rm -r run
echo CANCELLED >state
ends "a stop of a cancelled job" 75 "the job is CANCELLED" "$loads"
rm -r run
echo RUNNING >state
for signal in USR1 TERM; do
  # The script is told, twice, and tells srun, which takes its time.
  echo "trap 'echo told >>told' USR1; kill -$signal \$PPID; sleep 0.2; kill -$signal \$PPID; sleep 0.2; $save" >act
  ends "a stop by $signal" 0 "queued again" "$again"
  if [ "$(wc -l <told)" != 2 ]; then echo "FAILED: by $signal srun was told $(wc -l <told) times"; failed=1; fi
  rm -r run told
done
rm bin/ridgeline
ends "a missing program" 1 "no such program" "$loads"
exit $failed
