#include "ridgeline/launch/job_script.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "ridgeline/observe/format.h"

namespace ridgeline::launch {
namespace {

constexpr size_t kColumns = 110;

// `text` as lines of comment, each behind `indent`.
std::string comment(std::string_view text, std::string_view indent = "") {
  const std::string start = fmt::format("{}#", indent);
  std::string result, line = start;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    if (line.size() + 1 + end > kColumns && line != start) {
      result += line + "\n";
      line = start;
    }
    line += " " + std::string(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return result + line + "\n";
}

std::string bytes(double value) {
  return observe::format_bytes(value);
}

std::string slurm_time(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(seconds));
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

// What the plan found, and where that comes from.
std::string facts(const Site& site, const Job& job) {
  const auto rank = static_cast<double>(job.rank_bytes), order = static_cast<double>(job.order_bytes);
  std::string text = comment(fmt::format("{}. By {}.", site.about, site.source));
  text += comment(fmt::format("{} x {} of {}. A rank takes {}, those of a node {} of its {}.",
                              observe::format_counted(job.request.nodes, "node"),
                              observe::format_counted(job.ranks_per_node, "rank"),
                              observe::format_counted(job.cores_per_rank, "core"), bytes(rank),
                              bytes((rank + order) * job.ranks_per_node), bytes(static_cast<double>(site.bytes()))));
  if (site.node.devices > 0) {
    text += comment(fmt::format(
        "This version computes on processors, in their memory: devices idle. {}",
        !job.devices ? "Ranks have no device of their own."
        : job.rank_bytes <= site.device_bytes()
            ? fmt::format("The {} of a rank's device would do, too.", bytes(static_cast<double>(site.device_bytes())))
            : fmt::format("The {} of a rank's device would not do.", bytes(static_cast<double>(site.device_bytes())))));
  }
  const std::string memory = job.devices ? fmt::format("{}GiB", site.node.device_memory)
                                         : fmt::format("{}", site.bytes() / job.ranks_per_node);
  text += "# Other layouts, ranked for this site:\n";
  text += fmt::format(
      "#   ridgeline plan --search --gpus {} --memory {} --node-size {} --rank-tflops {:.4g} \\\n"
      "#     --node-gbps {} --network-gbps {} {}\n",
      job.ranks(), memory, job.ranks_per_node, site.node.teraflops / job.ranks_per_node, site.links.inside,
      site.links.between, shell_word(job.request.config.string()));
  return text;
}

// "#SBATCH OPTION", behind its reason.
std::string sbatch(const std::string& option, std::string_view why = "") {
  return (why.empty() ? "" : comment(why)) + fmt::format("#SBATCH {}\n", option);
}

std::string requests(const Site& site, const Job& job) {
  const Site::Slurm& slurm = site.slurm;
  std::string text = sbatch("--job-name=" + shell_word(job.request.config.stem().string()));
  const auto add = [&](const char* option, const std::string& value) {
    if (!value.empty()) text += sbatch(fmt::format("--{}={}", option, shell_word(value)));
  };
  add("account", job.request.account);
  if (job.request.account.empty() && slurm.needs_account)
    text += comment(fmt::format("{} wants to know whose allocation pays: sbatch --account=PROJECT SCRIPT", site.name));
  add("partition", slurm.partition);
  add("qos", slurm.qos);
  text += sbatch(fmt::format("--nodes={}", job.request.nodes));
  text += sbatch(fmt::format("--ntasks-per-node={}", job.ranks_per_node));
  text += sbatch(fmt::format("--cpus-per-task={}", job.cores_per_rank * site.node.cpus_per_core));
  text += sbatch("--time=" + slurm_time(job.request.seconds));
  for (const SlurmOption& option : site.sbatch) {
    if (option.use == Use::always || job.devices) text += sbatch(option.option, option.why);
  }
  text += sbatch("--requeue", "A failed node, or a more urgent job, puts this one back into the queue.");
  text += sbatch(fmt::format("--signal=B:USR1@{}", std::llround(job.signal_before)),
                 "The run itself saves and stops in time (train.stop_before_limit). Where Slurm does not tell it when "
                 "the job ends, this signal does: the script passes it on.");
  text += sbatch("--output=%x-%j.slurm --open-mode=append",
                 "Slurm opens this before the script can make a folder; what the run says goes to logs/ (below). A "
                 "requeued job appends.");
  return text;
}

std::string preparation(const Site& site, const Job& job) {
  std::string text =
      "\nset -euo pipefail\n\n"
      "# Paths are relative to the folder where the job was submitted.\n"
      "cd \"${SLURM_SUBMIT_DIR:?this script is for sbatch}\"\n"
      "mkdir -p logs\n"
      "log=logs/$SLURM_JOB_NAME-$SLURM_JOB_ID.out\n"
      "echo \"start ${SLURM_RESTART_COUNT:-0}: the run speaks in $log\"\n"
      "exec >>\"$log\" 2>&1\n";
  if (!site.modules.empty()) {
    text += "\n# Scripts of modules use variables that are not set.\nset +u\n";
    for (const std::string& module : site.modules) text += fmt::format("module load {}\n", shell_word(module));
    text += "set -u\n";
  }
  if (!site.environment.empty()) text += "\n";
  for (const Use use : {Use::always, Use::devices}) {
    if (use == Use::devices && !job.devices) continue;
    for (const Variable& variable : site.environment) {
      if (variable.use != use) continue;
      text += comment(variable.why);
      text += fmt::format("export {}={}\n", variable.name, shell_word(variable.value));
    }
  }
  text += fmt::format(
      "\nprogram=${{RIDGELINE:-ridgeline}}\n"
      "config={}\n"
      "out={}\n"
      "if ! command -v \"$program\" >/dev/null; then\n"
      "  echo \"$program: no such program; put its folder into PATH, or name it: RIDGELINE=/its/path sbatch ...\"\n"
      "  exit 1\n"
      "fi\n",
      shell_word(job.request.config.string()), shell_word(job.request.out.string()));
  return text;
}

std::string launch(const Site& site, const Job& job) {
  std::string text = "\noptions=(\n";
  const auto add = [&](const std::string& option, std::string_view why) {
    if (!why.empty()) text += comment(why, "  ");
    text += fmt::format("  {}\n", shell_word(option));
  };
  add(fmt::format("--nodes={}", job.request.nodes), "");
  add(fmt::format("--ntasks={}", job.ranks()), "");
  add(fmt::format("--ntasks-per-node={}", job.ranks_per_node), "");
  add(fmt::format("--cpus-per-task={}", job.cores_per_rank * site.node.cpus_per_core),
      "Since Slurm 22.05 srun does not take this over from the job.");
  add("--wait=30",
      "When a rank has ended, all have to within this many seconds: nobody waits for a dead one. Not "
      "--kill-on-bad-exit: to that, exit code 75 of the first rank to stop in good order is a failure, too.");
  add("--kill-on-bad-exit=0", "");
  if (!job.mpi.empty()) {
    add("--mpi=" + job.mpi,
        job.rendezvous ? "No MPI connects the ranks: they meet over TCP, where --rendezvous says."
                       : "How ranks find each other: as the program's MPI wants it, whatever Slurm's default is.");
  }
  for (const SlurmOption& option : site.srun) {
    if (option.use == Use::always || job.devices) add(option.option, option.why);
  }
  text += ")\narguments=(\n  --config \"$config\" --out \"$out\" --resume-or-start\n";
  for (const std::string& key : job.request.overrides) {
    if (job.sum_group && key.starts_with("parallel.sum_group="))
      text += comment("Ranks of a node add their gradients first: one sum travels for all of them.", "  ");
    text += fmt::format("  --set {}\n", shell_word(key));
  }
  for (const std::string& word : job.request.train) text += fmt::format("  {}\n", shell_word(word));
  text += ")\n";
  return text;
}

constexpr const char* kRun = R"sh(
newest() { find "$out/checkpoints" -maxdepth 1 -name 'step_*[0-9]' 2>/dev/null | sort | tail -n 1; }
before=$(newest) || true

srun "${options[@]}" "$program" train "${arguments[@]}" &
srun=$!
# USR1 asks every rank to save and stop, however often. So does TERM to this shell (scancel --full); passed on as it is
# it would be the ranks' second one, which quits without saving.
caught=0
stop() {
  caught=1
  kill -USR1 "$srun" 2>/dev/null || true
}
trap stop USR1 TERM
while :; do
  code=0
  wait "$srun" || code=$?
  # A signal ends the waiting, not srun.
  if [ "$caught" = 0 ]; then break; fi
  caught=0
done

case $code in
  0) echo "finished" ;;
  75)
    if [ "$(newest || true)" = "$before" ]; then
      echo "stopped without a newer checkpoint than at its start: not queued again; give it more --time"
      exit 1
    fi
    # A cancelled job must not come back.
    state=$(squeue --noheader --job "$SLURM_JOB_ID" --format %T || true)
    if [ "$state" != RUNNING ]; then
      echo "stopped and saved; the job is ${state:-over}: not queued again"
      exit 75
    fi
    echo "stopped and saved; more to do: queued again"
    scontrol requeue "$SLURM_JOB_ID"
    ;;
  *)
    echo "failed with exit code $code: not queued again; $out/failure.txt may say why"
    exit "$code"
    ;;
esac
)sh";

}  // namespace

std::string shell_word(std::string_view text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("_@%+=:./-").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain) return std::string(text);
  std::string result = "\"";
  for (const char c : text) {
    if (std::string_view("\"$`\\").find(c) != std::string_view::npos) result += '\\';
    result += c;
  }
  return result + "\"";
}

std::string job_script(const Site& site, const Job& job) {
  return fmt::format("{}{}`.\n", kScriptMark, job.request.command) + facts(site, job) + "#\n" + requests(site, job) +
         preparation(site, job) + launch(site, job) + kRun;
}

}  // namespace ridgeline::launch
