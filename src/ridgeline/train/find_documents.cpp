#include "ridgeline/train/find_documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>

#include "ridgeline/base/error.h"
#include "ridgeline/data/document_starts.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/observe/progress.h"
#include "ridgeline/train/agreement.h"

namespace ridgeline::train {
namespace {

using comm::Label;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// `stop`: when it is set, the reading ends with an Error.
void find_each(const std::vector<std::string>& datasets, const device::Machine& machine, std::FILE* console,
               const std::atomic<bool>& stop) {
  constexpr std::chrono::seconds kShort{2};  // nobody needs to be told
  for (const std::string& name : datasets) {
    const auto begin = steady_clock::now();
    std::optional<observe::Progress> progress;
    data::IndexedDataset::find_documents(
        name, {.threads = machine.count(),
               .only_to_keep = true,
               .progress =
                   [&](int64_t done, int64_t all) {
                     if (stop) throw Error(fmt::format("'{}': stopped while its documents are found", name));
                     if (!progress && done < all && steady_clock::now() - begin > kShort)
                       progress.emplace(observe::ProgressOptions{.label = fmt::format("find documents of {}", name),
                                                                 .total = all,
                                                                 .unit = "bytes",
                                                                 .start = done,
                                                                 .output = console});
                     if (progress) progress->update(done);
                   },
               .say =
                   [&](const std::string& what) {
                     if (console == nullptr) return;
                     const std::string line = fmt::format("note: {}", what);
                     if (progress) {
                       progress->print_line(line);
                     } else {
                       fmt::print(console, "{}\n", line);
                     }
                   }});
  }
}

// Whether no rank before it is on its host.
bool is_first_of_host(const comm::World& world) {
  for (int rank = 0; rank < world.rank(); ++rank) {
    if (world.host_of(rank) == world.host_of(world.rank())) return false;
  }
  return true;
}

// Work of some ranks that may take longer than the timeout: all meet about once a second until it is done.
Standing meet_until_done(comm::Communicator& everyone, bool mine,
                         const std::function<void(const std::atomic<bool>& stop)>& work) {
  std::atomic<bool> stop = false;
  std::future<Standing> result;
  // Where another rank fails, this one does not read to the end.
  const struct Stop {
    std::atomic<bool>& stop;
    ~Stop() { stop = true; }
  } ends{stop};
  if (mine) {
    result = std::async(std::launch::async, [&] {
      return standing_of([&] {
        work(stop);
        return std::vector<Fact>();
      });
    });
  }
  constexpr milliseconds kLongest{1000};
  for (milliseconds pause{1};; pause = std::min(2 * pause, kLongest)) {
    int64_t busy = mine && result.wait_for(pause) != std::future_status::ready ? 1 : 0;
    everyone.wait(everyone.all_reduce(Ref(&busy), 1, comm::ReduceOp::max, Label{"documents of token files"}));
    if (busy == 0) return mine ? result.get() : Standing();
  }
}

}  // namespace

std::vector<std::string> dataset_names(const Config& config) {
  std::vector<std::string> names;
  for (const DatasetList* list : {&config.data.train, &config.data.valid}) {
    for (const DatasetList::Entry& entry : list->entries) names.push_back(entry.prefix);
  }
  return names;
}

void find_documents(const std::vector<std::string>& datasets, const device::Machine& machine, std::FILE* console) {
  const std::atomic<bool> never = false;
  find_each(datasets, machine, console, never);
}

void find_documents(comm::World& world, const Config& config, const device::Machine& machine, std::FILE* console) {
  const std::unique_ptr<comm::Communicator> everyone = world.communicator("documents of token files");
  const std::vector<std::string> names = dataset_names(config);
  const auto turn = [&](bool mine, std::FILE* output) {
    agree(world, meet_until_done(*everyone, mine,
                                 [&](const std::atomic<bool>& stop) { find_each(names, machine, output, stop); }));
  };
  turn(world.rank() == 0, console);
  if (world.hosts() > 1) turn(world.rank() > 0 && is_first_of_host(world), nullptr);
}

}  // namespace ridgeline::train
