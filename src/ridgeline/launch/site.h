// A cluster as one TOML file says it: what a node has, how Slurm is asked for nodes, what a job sets before it starts.
// docs/launch.md explains every key. Pure but for read_site.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::launch {

// Whether a setting counts always, or only where each rank of a node has a device of its own.
enum class Use : uint8_t { always, devices };
std::span<const std::string_view> words_of(Use);

// An option of sbatch or srun, as written there.
struct SlurmOption {
  std::string option, why;
  Use use = Use::always;
};
// A variable of the environment.
struct Variable {
  std::string name, value, why;
  Use use = Use::always;
};
// The longest that a job on up to so many nodes may take.
struct TimeLimit {
  int64_t nodes = 0;
  double hours = 0;
};

struct Site {
  std::string name;    // "frontier"
  std::string about;   // one line for people
  std::string source;  // where its numbers are from, and of when
  std::vector<std::string> modules;
  struct Node {
    int64_t cores = 0;          // that jobs may use
    int64_t cpus_per_core = 1;  // as Slurm counts them
    int64_t ranks = 1;          // where --ranks-per-node does not say
    int64_t devices = 0;        // halves of a card that are addressed alone count one each
    double memory = 0;          // GiB that jobs may use
    double device_memory = 0;   // GiB of each
    double teraflops = 0;       // TFLOP/s of all devices, else of all cores: dense 16-bit products at their peak
  } node;
  struct Links {
    double inside = 0, between = 0;  // GB/s that a rank sends to ranks of its node, and to others
  } links;
  struct Slurm {
    std::string partition, qos, account;  // "": not asked for
    bool needs_account = false;
    std::string mpi;             // of srun: "" as Slurm is configured, "auto" as the program's MPI wants it
    double signal_before = 300;  // seconds before the time limit that a job is told
  } slurm;
  std::vector<TimeLimit> limits;  // ascending; empty: nothing known
  std::vector<SlurmOption> sbatch, srun;
  std::vector<Variable> environment;

  int64_t bytes() const { return static_cast<int64_t>(node.memory * 0x1p30); }
  int64_t device_bytes() const { return static_cast<int64_t>(node.device_memory * 0x1p30); }
};

// Error with line, key and the nearest one; `source` names the file.
Site parse_site(std::string_view text, std::string_view source);

// The files of launch/sites/, which the program carries with it.
struct KnownSite {
  std::string_view name, text;
};
std::span<const KnownSite> known_sites();

// A known site by its name, or a file: what ends in .toml or has a '/'. Error as above, or with the nearest name.
Site read_site(const std::string& name_or_file);

// "node.cores", "environment.why", ...: every key that a file may have.
std::vector<std::string> site_keys();

}  // namespace ridgeline::launch
