#include "ridgeline/cli/launch.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "ridgeline/base/file.h"
#include "ridgeline/base/output.h"
#include "ridgeline/base/temporary_file.h"
#include "ridgeline/cli/run_config.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/launch/job_script.h"
#include "ridgeline/train/find_documents.h"

namespace ridgeline::cli {
namespace {

struct LaunchOptions {
  std::string site;
  launch::JobRequest job;
  std::filesystem::path script;
  bool submit = false, list_sites = false;
  std::string print_site;
};

struct TrainOption {
  std::string_view name;
  bool value = false;             // takes one
  const char* why_not = nullptr;  // launch says it itself
};
constexpr std::array kTrainOptions = {
    TrainOption{"--other-data"},
    TrainOption{"--max-time", true},
    TrainOption{"--verify-data"},
    TrainOption{"--logs"},
    TrainOption{"--trace", true},
    TrainOption{"--trace-first", true},
    TrainOption{"--trace-last", true},
    TrainOption{"--rendezvous", true},
    TrainOption{"--ignore-plan"},
    TrainOption{"--quiet"},
    TrainOption{"--config", true, "Give the configuration to launch: CONFIG."},
    TrainOption{"--set", true, "Give it to launch, so that the plan counts it: before --."},
    TrainOption{"--out", true, "Give it to launch: before --."},
    TrainOption{"--ranks", true, "Give launch --nodes and --ranks-per-node."},
    TrainOption{"--resume", false, "The job resumes by itself where there is something to resume."},
    TrainOption{"--resume-or-start", false, "It is given anyway."},
    TrainOption{"--resume-from", true,
                "The job would go back there whenever it is queued again: run train once by hand."},
    TrainOption{"--check-links", false, "Nothing would be trained: start it by hand, with srun."},
    TrainOption{"--print-config", false, "Nothing would be trained."},
};

// Behind `--` stand options that the job hands to `train`.
void check_train_options(const std::vector<std::string>& words) {
  for (size_t at = 0; at < words.size(); ++at) {
    const std::string name = words[at].substr(0, words[at].find('='));
    std::vector<std::string> names;
    const TrainOption* option = nullptr;
    for (const TrainOption& known : kTrainOptions) {
      if (known.name == name) option = &known;
      if (known.why_not == nullptr) names.emplace_back(known.name);
    }
    if (option == nullptr) {
      const std::string guess = nearest(name, names);
      throw UsageError(fmt::format("{}: no option of train that a job can have", words[at]),
                       guess.empty() ? fmt::format("Those behind -- are {}.", fmt::join(names, ", "))
                                     : fmt::format("Did you mean {}?", guess));
    }
    if (option->why_not != nullptr) throw UsageError(fmt::format("{}: not behind --", name), option->why_not);
    if (!option->value || name.size() < words[at].size()) continue;
    if (++at == words.size()) throw UsageError(fmt::format("{}: its value is missing", name), "Give it one.");
  }
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

// The command that prints the same script; what only says what becomes of it is left out.
std::string command_of(const LaunchOptions& options) {
  const launch::JobRequest& job = options.job;
  std::string text = fmt::format("--site {} --nodes {}", launch::shell_word(options.site), job.nodes);
  if (job.ranks_per_node != 0) text += fmt::format(" --ranks-per-node {}", job.ranks_per_node);
  text += fmt::format(" --time {}", clock_text(job.seconds));
  if (!job.account.empty()) text += " --account " + launch::shell_word(job.account);
  text += " --out " + launch::shell_word(job.out.string()) + " " + launch::shell_word(job.config.string());
  for (const std::string& key : job.overrides) text += " --set " + launch::shell_word(key);
  if (!job.train.empty()) text += " --";
  for (const std::string& word : job.train) text += " " + launch::shell_word(word);
  return text;
}

// Hands the script to sbatch, and prints the number that it gives the job.
void submit(const std::filesystem::path& script) {
  const std::string command = "sbatch --parsable " + launch::shell_word(script.string());
  std::fflush(stdout);
  FILE* const pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) throw system_error("sbatch", errno);
  std::string answer;
  std::array<char, 256> part{};
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) answer += part.data();
  const int status = ::pclose(pipe);
  if (status != 0)
    throw Error(fmt::format("sbatch did not take the job (exit code {})", WIFEXITED(status) ? WEXITSTATUS(status) : -1),
                "It says why above. Without --submit the script is printed.");
  // "123" or "123;cluster"
  fmt::print("job {}\n", answer.substr(0, answer.find_first_of(";\n")));
}

void print_sites() {
  for (const launch::KnownSite& known : launch::known_sites())
    fmt::print("{:12}{}\n", known.name, launch::read_site(std::string(known.name)).about);
}

void print_known(const std::string& name) {
  launch::read_site(name);  // an unknown one is an error
  for (const launch::KnownSite& known : launch::known_sites()) {
    if (known.name == name) fmt::print("{}", known.text);
  }
}

std::string script_of(LaunchOptions& options) {
  if (options.site.empty())
    throw UsageError("--site is missing", "`ridgeline launch --list-sites` shows the known ones.");
  if (options.job.config.empty())
    throw UsageError("CONFIG is missing",
                     "For example: ridgeline launch --site generic --nodes 2 configs/gpt2_124m.toml");
  if (options.job.config.string().starts_with("-"))
    throw UsageError("CONFIG is missing", "Give it before --set, which takes every word up to the next option.");
  check_train_options(options.job.train);
  const launch::Site site = launch::read_site(options.site);
  if (options.job.out.empty()) options.job.out = std::filesystem::path("runs") / options.job.config.stem();
  options.job.command = command_of(options);
  if (options.job.command.find('\n') != std::string::npos)
    throw UsageError("an option has a line break", "Scripts are written line by line: rename the file.");
  options.job.program_mpi = comm::slurm_mpi_flag();
  if (options.submit && site.slurm.needs_account && options.job.account.empty() && site.slurm.account.empty())
    throw Error(fmt::format("--submit: {} wants to know whose allocation pays", site.name), "Give --account PROJECT.");
  RunConfigOptions run{.config = options.job.config, .overrides = options.job.overrides};
  const train::Config config = read_config_for_any_ranks(run);
  train::find_documents(train::dataset_names(config), device::Machine::read(), stderr);
  return launch::job_script(site, launch::make_job(site, options.job, config));
}

void run_launch(LaunchOptions& options) {
  if (options.list_sites) return print_sites();
  if (!options.print_site.empty()) return print_known(options.print_site);
  const std::string script = script_of(options);
  if (options.script.empty() && !options.submit) {
    fmt::print("{}", script);
    return;
  }
  if (options.script.empty())
    options.script = std::filesystem::path("logs") / options.job.config.stem().concat(".sbatch");
  const std::vector<std::filesystem::path> inputs = {options.job.config};
  require_writable(options.script, fmt::format("--script {}", options.script.string()), inputs,
                   [](std::string_view start) { return start.starts_with(launch::kScriptMark); });
  if (options.script.has_parent_path()) make_folder(options.script.parent_path());
  write_output(options.script, script);
  if (options.submit) submit(options.script);
}

}  // namespace

void add_launch(const Command& program) {
  const auto options = std::make_shared<LaunchOptions>();
  const Command command = program.subcommand("launch", "Plan a run for a cluster, and write or submit its Slurm job");
  command.footer(
      "Refuses what `train` would refuse there, and what does not fit into the nodes' memory. The job starts the run "
      "or\n"
      "goes on with it, saves before its time is over, and queues itself again until the run is finished\n"
      "(docs/launch.md).\n\n"
      "Examples:\n"
      "  ridgeline launch --site frontier --nodes 4 --time 2:00:00 configs/gpt_22b_3d.toml > job.sbatch\n"
      "  ridgeline launch --site lumi --nodes 2 --account project_1 --submit configs/gptj_6b_fsdp.toml\n"
      "  ridgeline launch --print-site generic > my_cluster.toml\n"
      "  ridgeline launch --site my_cluster.toml --nodes 2 configs/gpt2_124m.toml --set data.train=data/corpus");
  command.option("CONFIG", options->job.config, "Configuration of the run").placeholder("FILE.toml");
  command.list("TRAIN_OPTIONS", options->job.train, "Options of train, behind --: --quiet, --trace FILE.json, ...")
      .placeholder("-- OPTION ...");
  command.option("--site", options->site, "A known site, or a file that describes one").placeholder("SITE|FILE.toml");
  command.option("--nodes", options->job.nodes, Range{1, 1 << 20}, "Nodes of the job");
  command
      .option("--ranks-per-node", options->job.ranks_per_node, Range{1, 4096},
              "Ranks on each; default: as the site has it, mostly one per device")
      .no_default();
  command.duration("--time", options->job.seconds, "Time limit of the job: 2h, 1:30:00; default: one hour");
  command.option("--account", options->job.account, "Whose allocation pays; default: the site's")
      .placeholder("PROJECT");
  command.option("--out", options->job.out, "Folder of the run; default: runs/ and the configuration's name")
      .placeholder("DIR");
  command.list("--set", options->job.overrides, "Override a key of the configuration; may be given often")
      .placeholder("KEY=VALUE");
  command.option("--script", options->script, "Write the script into this file instead of printing it")
      .placeholder("FILE.sbatch");
  command.flag("--submit", options->submit,
               "Hand it to sbatch, and print the job's number; without --script it is kept in logs/");
  command.flag("--list-sites", options->list_sites, "Print the known sites and stop");
  command
      .option("--print-site", options->print_site, "Print the file of a known site, to begin one's own with, and stop")
      .placeholder("SITE");
  command.action([options] { run_launch(*options); });
}

}  // namespace ridgeline::cli
