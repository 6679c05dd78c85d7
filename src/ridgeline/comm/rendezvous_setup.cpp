#include "ridgeline/comm/rendezvous_setup.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>

#include "ridgeline/base/error.h"

namespace ridgeline::comm::detail {
namespace {

struct RankVariables {
  const char* rank;
  const char* size;
};
constexpr RankVariables kRankVariables[] = {{"RIDGELINE_RANK", "RIDGELINE_WORLD_SIZE"},
                                            {"RANK", "WORLD_SIZE"},
                                            {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                            {"PMI_RANK", "PMI_SIZE"},
                                            {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"}};
constexpr int kMostRanks = 1 << 20;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// -1 where `text` is no number of 0 … `most`.
int number_of(std::string_view text, int most) {
  int value = -1;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  return problem != std::errc() || end != text.data() + text.size() || value < 0 || value > most ? -1 : value;
}

void read_rank(RendezvousSetup& setup) {
  for (const auto& [rank_name, size_name] : kRankVariables) {
    const std::string rank = variable(rank_name), size = variable(size_name);
    if (rank.empty() || (size.empty() && std::string_view(rank_name).starts_with("SLURM"))) continue;
    setup.rank = number_of(rank, kMostRanks);
    setup.size = number_of(size, kMostRanks);
    if (setup.rank >= 0 && setup.rank < setup.size) return;
    throw Error(
        fmt::format("{} = '{}' and {} = '{}' do not say which rank of how many this process is", rank_name, rank,
                    size_name, size),
        fmt::format("Set both: {} to how many processes there are, {} to 0 and up to one less.", size_name, rank_name));
  }
  throw Error(fmt::format("the rendezvous {} is given, but not which rank this process is", setup.place()),
              "Start the processes with srun or torchrun, or set RIDGELINE_RANK and RIDGELINE_WORLD_SIZE for each.");
}

// A port of its own for every step of every job, below those that systems give away themselves.
int port_of_step() {
  constexpr uint64_t kFirst = 20'000, kPorts = 12'000, kSteps = 37;
  const uint64_t job = std::strtoull(variable("SLURM_JOB_ID").c_str(), nullptr, 10);
  const uint64_t step = std::strtoull(variable("SLURM_STEP_ID").c_str(), nullptr, 10);
  return static_cast<int>(kFirst + (job * kSteps + step) % kPorts);
}

void read_place(std::string_view given, RendezvousSetup& setup) {
  if (given == "slurm") {
    setup.host = first_of_hosts(variable("SLURM_STEP_NODELIST"));
    setup.port = port_of_step();
    if (!setup.host.empty()) return;
    throw Error("--rendezvous slurm: srun did not start this process (SLURM_STEP_NODELIST is not set)",
                "Start it with srun, or name a host and a port: --rendezvous node1:29400");
  }
  constexpr int kLastPort = 65'535;
  const size_t colon = given.rfind(':');
  std::string_view host = given.substr(0, colon == std::string_view::npos ? 0 : colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  setup.host = host;
  setup.port = colon == std::string_view::npos ? -1 : number_of(given.substr(colon + 1), kLastPort);
  if (setup.host.empty() || setup.port < 1) {
    throw Error(fmt::format("--rendezvous '{}': not a host and a port", given),
                "Give the host of rank 0 and any free port of it, the same to every process: --rendezvous node1:29400; "
                "or slurm.");
  }
}

}  // namespace

std::string first_of_hosts(std::string_view list) {
  const size_t bracket = list.find('['), comma = list.find(',');
  if (bracket == std::string_view::npos || comma < bracket) return std::string(list.substr(0, comma));
  const size_t closed = list.find(']', bracket);
  if (closed == std::string_view::npos) return "";
  const std::string_view numbers = list.substr(bracket + 1, closed - bracket - 1);
  const std::string_view behind = list.substr(closed + 1);
  return std::string(list.substr(0, bracket)) + std::string(numbers.substr(0, numbers.find_first_of(",-"))) +
         std::string(behind.substr(0, behind.find(',')));
}

std::string chosen_rendezvous(std::string_view given) {
  return given.empty() ? variable("RIDGELINE_RENDEZVOUS") : std::string(given);
}

bool has_rank_in_environment() {
  for (const auto& [rank, size] : kRankVariables) {
    if (!variable(rank).empty() && !variable(size).empty()) return true;
  }
  return false;
}

int rank_in_environment() {
  for (const auto& [rank, size] : kRankVariables) {
    if (!variable(rank).empty() && !variable(size).empty()) return number_of(variable(rank), kMostRanks);
  }
  return -1;
}

RendezvousSetup rendezvous_setup(std::string_view given, std::chrono::milliseconds timeout) {
  RendezvousSetup setup;
  read_place(given, setup);
  read_rank(setup);
  setup.secret = variable("RIDGELINE_RENDEZVOUS_SECRET");
  setup.timeout = timeout;
  return setup;
}

}  // namespace ridgeline::comm::detail
