#include "ridgeline/train/agreement.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/comm/failure.h"

namespace ridgeline::train {
namespace {

using comm::Label;
using comm::ReduceOp;

int64_t hash_of(std::string_view text) {
  return static_cast<int64_t>(hash_name(text));
}

// Keys and values with their lengths, so that no two lists give one text.
std::string text_of(const std::vector<Fact>& facts) {
  std::string text;
  for (const Fact& fact : facts)
    text += fmt::format("{} {}\n{}\n{}\n", fact.key.size(), fact.value.size(), fact.key, fact.value);
  return text;
}

const Fact* find(const std::vector<Fact>& facts, std::string_view key) {
  const auto found = std::find_if(facts.begin(), facts.end(), [&](const Fact& fact) { return fact.key == key; });
  return found == facts.end() ? nullptr : &*found;
}

// One text per line; keys hold no line breaks.
std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.emplace_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

constexpr size_t kValueBytes = 160, kHostBytes = 64;

// What the first rank of those that share a value says of it.
struct Statement {
  std::array<char, kValueBytes> value;
  std::array<char, kHostBytes> host;
};
constexpr int64_t kStatementWords = sizeof(Statement) / sizeof(int64_t);

template <size_t kSize>
void put(std::array<char, kSize>& field, std::string_view text) {
  if (text.size() < kSize) {
    std::copy(text.begin(), text.end(), field.begin());
    return;
  }
  constexpr std::string_view kCut = " ...";
  std::copy_n(text.begin(), kSize - 1 - kCut.size(), field.begin());
  std::copy(kCut.begin(), kCut.end(), field.end() - 1 - kCut.size());
}

// Ranks that have one value of one key.
struct Group {
  int64_t hash = 0;
  std::vector<int> ranks;
};

// Most ranks first: the exceptions stand last.
std::vector<Group> grouped(const std::vector<int64_t>& hashes, size_t column, size_t columns) {
  std::vector<Group> groups;
  std::map<int64_t, size_t> known;
  for (size_t rank = 0; rank * columns < hashes.size(); ++rank) {
    const int64_t hash = hashes[rank * columns + column];
    const auto [at, is_new] = known.try_emplace(hash, groups.size());
    if (is_new) groups.push_back({hash, {}});
    groups[at->second].ranks.push_back(static_cast<int>(rank));
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [](const Group& a, const Group& b) { return a.ranks.size() > b.ranks.size(); });
  return groups;
}

class Meeting {
 public:
  Meeting(comm::World& world, const Standing& mine)
      : world_(world), mine_(mine), everyone_(world.communicator("start")), rank_(world.rank()), ranks_(world.size()) {}

  bool hold() {
    const std::string text = mine_.incomplete ? std::string() : text_of(mine_.facts);
    const int64_t first = hash_of(text), second = hash_of("and again, from another start: " + text);
    constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    // The least of each hash, and of its complement: the greatest. Then the first ranks in trouble, of either kind, and
    // whether nobody asks.
    std::array<int64_t, 7> least = {first, ~first, second, ~second, kNone, kNone, mine_.asks ? 0 : 1};
    if (mine_.trouble) least[mine_.incomplete ? 4 : 5] = rank_;
    reduce(least.data(), least.size(), ReduceOp::min, "what every rank was started with");
    if (least[4] != kNone) report(least[4]);
    if (least[0] != ~least[1] || least[2] != ~least[3]) compare();
    if (least[5] != kNone) report(least[5]);
    return least[6] == 0;
  }

 private:
  void reduce(int64_t* values, size_t count, ReduceOp op, const char* what) {
    everyone_->wait(everyone_->all_reduce(Ref(values), static_cast<int64_t>(count), op, Label{what}));
  }

  // One rank speaks; the others wait for the failure that this is.
  [[noreturn]] void speak(int rank, const std::string& what, const std::string& next) {
    if (rank_ == rank) throw comm::Refusal(what, next);
    everyone_->wait(everyone_->barrier(Label{"end of a refused start"}));
    throw comm::Refusal(what, next);
  }

  [[noreturn]] void report(int64_t culprit) {
    int64_t everywhere = mine_.trouble ? 1 : 0;
    reduce(&everywhere, 1, ReduceOp::min, "whether every rank is in trouble");
    const Error& trouble = mine_.trouble ? *mine_.trouble : Error("another rank could not start");
    speak(static_cast<int>(culprit),
          everywhere != 0 ? trouble.message() : fmt::format("rank {}: {}", culprit, trouble.message()),
          trouble.next_step());
  }

  // The keys of rank 0, known to all.
  std::vector<std::string> shared_keys() {
    std::string text;
    for (const Fact& fact : mine_.facts) text += fact.key + "\n";
    int64_t size = static_cast<int64_t>(text.size());
    everyone_->wait(everyone_->broadcast(Ref(&size), 1, 0, Label{"length of the list of keys"}));
    text.resize(static_cast<size_t>(size));
    everyone_->wait(everyone_->broadcast(Ref(text.data(), DType::u8), size, 0, Label{"list of keys"}));
    return lines_of(text);
  }

  std::string value_of(const std::string& key) const {
    const Fact* const fact = find(mine_.facts, key);
    return fact == nullptr ? "(unknown there)" : fact->value;
  }

  // What this rank knows of that rank 0 does not.
  std::string beyond(const std::vector<std::string>& keys) const {
    std::string text;
    for (const Fact& fact : mine_.facts) {
      if (std::find(keys.begin(), keys.end(), fact.key) == keys.end())
        text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", fact.key, fact.value);
    }
    return text.empty() ? "none" : text;
  }

  // Which of `keys` differ anywhere.
  std::vector<std::string> differing(const std::vector<std::string>& keys, const std::vector<std::string>& values) {
    std::vector<int64_t> bounds;
    for (const std::string& value : values) {
      bounds.push_back(hash_of(value));
      bounds.push_back(~hash_of(value));
    }
    reduce(bounds.data(), bounds.size(), ReduceOp::min, "which keys differ");
    std::vector<std::string> found;
    for (size_t i = 0; i < keys.size(); ++i) {
      if (bounds[2 * i] != ~bounds[2 * i + 1]) found.push_back(keys[i]);
    }
    return found;
  }

  [[noreturn]] void compare() {
    std::vector<std::string> keys = shared_keys(), values;
    for (const std::string& key : keys) values.push_back(value_of(key));
    values.push_back(beyond(keys));
    keys.emplace_back("keys that rank 0 does not know");
    const std::vector<std::string> different = differing(keys, values);
    const size_t shown = std::min<size_t>(different.size(), kDifferencesShown);
    std::vector<std::string> mine;
    std::vector<int64_t> hashes(shown * static_cast<size_t>(ranks_));
    for (size_t i = 0; i < shown; ++i) {
      const auto at = std::find(keys.begin(), keys.end(), different[i]) - keys.begin();
      mine.push_back(values[static_cast<size_t>(at)]);
      hashes[static_cast<size_t>(rank_) * shown + i] = hash_of(mine.back());
    }
    everyone_->wait(
        everyone_->all_gather(Ref(hashes.data()), static_cast<int64_t>(shown), Label{"values that differ"}));
    std::string lines;
    for (size_t i = 0; i < shown; ++i) lines += line(different[i], mine[i], grouped(hashes, i, shown));
    if (different.empty()) lines = " the same settings in another order";
    if (shown < different.size()) lines += fmt::format("\n    and {} more", different.size() - shown);
    speak(0, fmt::format("the ranks were not started alike:{}", lines),
          "Start every rank with the same program, options and environment, on the same data.");
  }

  std::string line(const std::string& key, const std::string& value, const std::vector<Group>& groups) {
    const size_t shown = std::min<size_t>(groups.size(), kValuesShown);
    std::vector<Statement> statements(shown);
    for (size_t g = 0; g < shown; ++g) {
      if (groups[g].ranks.front() != rank_) continue;
      std::array<char, kHostBytes> host{};
      ::gethostname(host.data(), host.size() - 1);
      put(statements[g].value, value);
      put(statements[g].host, host.data());
    }
    // Each place is filled by one rank and zero on all others.
    std::vector<int64_t> words(shown * kStatementWords);
    std::memcpy(words.data(), statements.data(), words.size() * sizeof(int64_t));
    reduce(words.data(), words.size(), ReduceOp::sum, "what differs");
    std::memcpy(static_cast<void*>(statements.data()), words.data(), words.size() * sizeof(int64_t));
    std::string text = fmt::format("\n    {}:", key);
    for (size_t g = 0; g < shown; ++g) {
      const std::vector<int>& ranks = groups[g].ranks;
      text += fmt::format("{} {} on {} {}{}", g == 0 ? "" : ";", statements[g].value.data(),
                          ranks.size() == 1 ? "rank" : "ranks", ranks_text(ranks),
                          on_one_host(ranks) ? fmt::format(" (host {})", statements[g].host.data()) : "");
    }
    if (shown < groups.size()) text += fmt::format("; and {} values more", groups.size() - shown);
    return text;
  }

  // Whether one name says where they are.
  bool on_one_host(const std::vector<int>& ranks) const {
    const int host = world_.host_of(ranks.front());
    return ranks.size() == 1 || (world_.hosts() > 1 && std::all_of(ranks.begin(), ranks.end(), [&](int rank) {
                                   return world_.host_of(rank) == host;
                                 }));
  }

  const comm::World& world_;
  const Standing& mine_;
  std::unique_ptr<comm::Communicator> everyone_;
  int rank_, ranks_;
};

}  // namespace

std::string ranks_text(std::span<const int> ranks, int most) {
  std::string text;
  int stretches = 0;
  for (size_t i = 0; i < ranks.size();) {
    size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (stretches++ == most) return text + fmt::format(" and {} more", ranks.size() - i);
    text += fmt::format("{}{}", i == 0 ? "" : ", ", ranks[i]);
    if (last > i) text += fmt::format("{}{}", last == i + 1 ? ", " : "-", ranks[last]);
    i = last + 1;
  }
  return text;
}

Standing standing_of(const std::function<std::vector<Fact>()>& collect) {
  Standing standing;
  try {
    standing.facts = collect();
  } catch (const Error& error) {
    standing.trouble = error;
  } catch (const std::exception& error) {
    standing.trouble = Error(error.what());
  }
  standing.incomplete = standing.trouble.has_value();
  return standing;
}

bool agree(comm::World& world, const Standing& mine) {
  if (world.size() > 1) return Meeting(world, mine).hold();
  if (mine.trouble) throw comm::Refusal(mine.trouble->message(), mine.trouble->next_step());
  return mine.asks;
}

}  // namespace ridgeline::train
