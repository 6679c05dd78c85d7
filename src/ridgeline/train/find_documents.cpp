#include "ridgeline/train/find_documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>

#include "ridgeline/base/error.h"
#include "ridgeline/data/document_starts.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/observe/progress.h"
#include "ridgeline/train/agreement.h"
#include "ridgeline/train/host_work.h"

namespace ridgeline::train {
namespace {

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

}  // namespace

std::vector<std::string> dataset_names(const Config& config) {
  std::vector<std::string> names;
  for (const DatasetList* list : {&config.data.train, &config.data.valid}) {
    for (const DatasetList::Entry& entry : list->entries) names.push_back(entry.prefix);
  }
  return names;
}

bool any_of_llmc(const Config& config) {
  const std::vector<std::string> names = dataset_names(config);
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return data::IndexedDataset::is_llmc(name); });
}

void find_documents(const std::vector<std::string>& datasets, const device::Machine& machine, std::FILE* console) {
  const std::atomic<bool> never = false;
  find_each(datasets, machine, console, never);
}

void find_documents(comm::World& world, const Config& config, const device::Machine& machine, std::FILE* console) {
  const std::vector<std::string> names = dataset_names(config);
  const auto turn = [&](bool mine, std::FILE* output) {
    const LongWork work = [&](const std::atomic<bool>& stop) {
      find_each(names, machine, output, stop);
      return std::vector<Fact>();
    };
    agree_when_done(world, {"documents of token files"}, mine ? work : nullptr);
  };
  const int first = ranks_of_own_host(world).front();
  turn(world.rank() == 0, console);
  if (world.hosts() > 1) turn(first > 0 && world.rank() == first, nullptr);
}

}  // namespace ridgeline::train
