#include "ridgeline/train/host_work.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"

namespace ridgeline::train {
namespace {

using comm::Label;
using comm::ReduceOp;

// Of a reading, in 128 bits.
using ReadingName = std::array<int64_t, 2>;
constexpr ReadingName kNoReading = {0, 0};

ReadingName name_of(const Reading& reading) {
  return {static_cast<int64_t>(hash_name(reading.of)),
          static_cast<int64_t>(hash_name("and again, from another start: " + reading.of))};
}

struct Share {
  size_t place = 0;   // among all that is read
  size_t reader = 0;  // which process
};

// Who reads what, the same on every process. `names`: as many of each process, those that are missing kNoReading.
std::map<ReadingName, Share> shares_of(const std::vector<ReadingName>& names, size_t processes) {
  const size_t each = names.size() / processes;
  std::map<ReadingName, std::vector<size_t>> wanted;  // by whom
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] != kNoReading) wanted[names[i]].push_back(i / each);
  }
  std::map<ReadingName, Share> shares;
  std::vector<size_t> burden(processes);
  for (const ReadingName& name : names) {
    if (name == kNoReading || shares.contains(name)) continue;
    const std::vector<size_t>& by = wanted.at(name);
    const size_t reader = *std::min_element(by.begin(), by.end(), [&](size_t a, size_t b) {
      return burden[a] < burden[b];  // the first of several
    });
    ++burden[reader];
    shares.emplace(name, Share{.place = shares.size(), .reader = reader});
  }
  return shares;
}

std::optional<std::string> value_of(const Reading& reading) {
  try {
    return reading.read();
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

// Processes of one host that read for each other.
class Neighbours {
 public:
  Neighbours(comm::World& world, std::span<const Reading> readings)
      : world_(world), readings_(readings), all_(world.communicator(ranks_of_own_host(world), "reading for a host")) {
    for (const Reading& reading : readings) names_.push_back(name_of(reading));
  }

  std::vector<std::optional<std::string>> read() {
    const std::vector<ReadingName> names = names_of_all();
    if (names.empty()) return {};
    const std::map<ReadingName, Share> shares = shares_of(names, processes());
    std::vector<std::optional<std::string>> values(shares.size());
    read_own(shares, values);
    exchange(values);
    std::vector<std::optional<std::string>> wanted;
    for (const ReadingName& name : names_) wanted.push_back(values[shares.at(name).place]);
    return wanted;
  }

 private:
  size_t processes() const { return static_cast<size_t>(all_->size()); }

  void reduce(int64_t* values, size_t count, ReduceOp op, const char* what) {
    all_->wait(all_->all_reduce(Ref(values), static_cast<int64_t>(count), op, Label{what}));
  }

  // Those of each process as many as of the one that has most; none at all where none has any.
  std::vector<ReadingName> names_of_all() {
    int64_t most = std::ssize(names_);
    reduce(&most, 1, ReduceOp::max, "how many things a process reads");
    std::vector<ReadingName> names(static_cast<size_t>(most) * processes(), kNoReading);
    if (names.empty()) return names;
    std::copy(names_.begin(), names_.end(), names.begin() + all_->rank() * most);
    constexpr int64_t kWords = std::tuple_size_v<ReadingName>;
    all_->wait(all_->all_gather(Ref(names.front().data()), kWords * most, Label{"what each process reads"}));
    return names;
  }

  void read_own(const std::map<ReadingName, Share>& shares, std::vector<std::optional<std::string>>& values) {
    meet_until_done(world_, *all_, Label{"reading for a host"}, [&](const std::atomic<bool>& stop) {
      for (size_t i = 0; i < readings_.size(); ++i) {
        if (stop) throw Error("stopped while files are read");
        const Share& share = shares.at(names_[i]);
        std::optional<std::string>& value = values[share.place];
        if (share.reader == static_cast<size_t>(all_->rank()) && !value) value = value_of(readings_[i]);
      }
      return std::vector<Fact>();
    });
  }

  // Each place is filled by its reader, and zero on all others: a length, plus one, and the bytes.
  void exchange(std::vector<std::optional<std::string>>& values) {
    int64_t longest = 0;
    for (const auto& value : values) longest = std::max(longest, value ? std::ssize(*value) : 0);
    reduce(&longest, 1, ReduceOp::max, "the longest of what was read");
    const size_t words = 1 + (static_cast<size_t>(longest) + sizeof(int64_t) - 1) / sizeof(int64_t);
    std::vector<int64_t> table(words * values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (!values[i]) continue;
      table[i * words] = std::ssize(*values[i]) + 1;
      std::memcpy(&table[i * words] + 1, values[i]->data(), values[i]->size());
    }
    reduce(table.data(), table.size(), ReduceOp::sum, "what was read");
    for (size_t i = 0; i < values.size(); ++i) {
      if (table[i * words] == 0) continue;
      values[i].emplace(static_cast<size_t>(table[i * words] - 1), '\0');
      std::memcpy(values[i]->data(), &table[i * words] + 1, values[i]->size());
    }
  }

  const comm::World& world_;
  std::span<const Reading> readings_;
  std::unique_ptr<comm::Communicator> all_;
  std::vector<ReadingName> names_;
};

}  // namespace

std::vector<int> ranks_of_own_host(const comm::World& world) {
  std::vector<int> ranks;
  for (int rank = 0; rank < world.size(); ++rank) {
    if (world.host_of(rank) == world.host_of(world.rank())) ranks.push_back(rank);
  }
  return ranks;
}

Standing meet_until_done(const comm::World& world, comm::Communicator& ranks, const Label& label,
                         const LongWork& work) {
  std::atomic<bool> stop = false;
  std::future<Standing> result;
  // Where another rank fails, this one does not work to the end.
  const struct Stop {
    std::atomic<bool>& stop;
    ~Stop() { stop = true; }
  } ends{stop};
  if (work) {
    result = std::async(std::launch::async, [&] { return standing_of([&] { return work(stop); }); });
  }
  const std::chrono::milliseconds pause = std::min(std::chrono::milliseconds(1000), world.options().timeout / 4);
  for (;;) {
    int64_t busy = work && result.wait_for(pause) != std::future_status::ready ? 1 : 0;
    ranks.wait(ranks.all_reduce(Ref(&busy), 1, ReduceOp::max, label));
    if (busy == 0) return work ? result.get() : Standing();
  }
}

void agree_when_done(comm::World& world, const Label& label, const LongWork& work) {
  const std::unique_ptr<comm::Communicator> everyone = world.communicator(label.what);
  agree(world, meet_until_done(world, *everyone, label, work));
}

std::vector<std::optional<std::string>> read_once(comm::World& world, std::span<const Reading> readings) {
  return Neighbours(world, readings).read();
}

}  // namespace ridgeline::train
