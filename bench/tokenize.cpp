#include "bench/tokenize.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "bench/process.h"
#include "bench/scratch.h"
#include "bench/text_corpora.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/json.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/data/pretokenize.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::bench {
namespace {

constexpr int kWarmPasses = 5;  // of each round
constexpr size_t kChunk = size_t{1} << 18;
constexpr int kNewMemory = 1 << 20;  // so many bytes and more are asked of the system each time

// A module of the peers' environment, and how much of each corpus it encodes (ours beside it as much): of all of it
// some would take minutes.
struct PeerKind {
  std::string_view module;
  size_t bytes;
};
constexpr size_t kPart = size_t{1} << 21;
constexpr std::array kPeers = {PeerKind{"gigatoken", std::numeric_limits<size_t>::max()}, PeerKind{"tiktoken", kPart},
                               PeerKind{"tokenizers", kPart}};

// Of one pass, or the best of some: wall clock, and processor time of all threads.
struct Taken {
  double seconds = 1e9, cpu_seconds = 1e9;
  void keep_best(const Taken& other) {
    seconds = std::min(seconds, other.seconds);
    cpu_seconds = std::min(cpu_seconds, other.cpu_seconds);
  }
};

double cpu_now() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// A text cut where that changes nothing, encoded as `prepare` does: an encoder per thread, parts handed out in order,
// ids of the type in which a dataset keeps them. The threads stay, as gigatoken's do.
class Encoding {
 public:
  Encoding() = default;
  Encoding(const Encoding&) = delete;
  Encoding& operator=(const Encoding&) = delete;
  virtual ~Encoding() = default;
  virtual Taken first() = 0;
  virtual Taken warm() = 0;
  virtual std::vector<int32_t> ids() const = 0;
};

template <typename Id>
class EncodingAs final : public Encoding {
 public:
  EncodingAs(const data::Tokenizer& tokenizer, std::string_view text, int threads)
      : tokenizer_(tokenizer),
        bytes_(text.size()),
        workers_(static_cast<size_t>(threads)),
        team_(std::make_unique<device::WorkerTeam>(threads)) {
    while (!text.empty()) {
      const size_t size = data::next_cut(text, std::min(kChunk, text.size()));
      parts_.push_back({.text = text.substr(0, size)});
      text.remove_prefix(size);
    }
  }

  Taken first() override {
    workers_ = std::vector<Worker>(workers_.size());
    return warm();
  }

  Taken warm() override {
    const double cpu = cpu_now();
    const auto begin = std::chrono::steady_clock::now();
    std::atomic<size_t> next = 0;
    team_->run([&](int member) { work(static_cast<size_t>(member), next); });
    return {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), cpu_now() - cpu};
  }

  std::vector<int32_t> ids() const override {
    std::vector<int32_t> all;
    for (const Part& part : parts_) {
      const auto begin = workers_[part.worker].ids.begin();
      all.insert(all.end(), begin + part.begin, begin + part.end);
    }
    return all;
  }

 private:
  struct alignas(128) Worker {  // of a line of its own: its ids grow all the time
    std::optional<data::EncoderOf<Id>> encoder;
    std::vector<Id> ids;  // of its parts, one after another
  };
  struct Part {
    std::string_view text;
    size_t worker = 0;                  // which encoded it
    std::ptrdiff_t begin = 0, end = 0;  // in its ids
  };

  void work(size_t number, std::atomic<size_t>& next) {
    Worker& worker = workers_[number];
    if (!worker.encoder) {
      worker.encoder.emplace(tokenizer_);
      worker.ids.reserve(bytes_);  // never more, and what is not written costs nothing
    }
    worker.ids.clear();
    for (size_t i = next++; i < parts_.size(); i = next++) {
      const std::ptrdiff_t begin = std::ssize(worker.ids);
      worker.encoder->encode(parts_[i].text, worker.ids);
      parts_[i] = {parts_[i].text, number, begin, std::ssize(worker.ids)};
    }
  }

  const data::Tokenizer& tokenizer_;
  size_t bytes_;  // of the text
  std::vector<Part> parts_;
  std::vector<Worker> workers_;
  std::unique_ptr<device::WorkerTeam> team_;
};

std::unique_ptr<Encoding> encoding(const data::Tokenizer& tokenizer, std::string_view text, int threads) {
  return data::with_token_id(tokenizer.vocab_size(), [&](auto id) -> std::unique_ptr<Encoding> {
    return std::make_unique<EncodingAs<decltype(id)>>(tokenizer, text, threads);
  });
}

// A peer in a process of its own, which remembers nothing when it begins.
class Peer {
 public:
  Peer(const TokenizeOptions& options, std::string_view module, const std::filesystem::path& tokenizer, int threads)
      : process_({options.peers + "/bin/python", options.peer_script, std::string(module), tokenizer.string(),
                  std::to_string(threads)},
                 {fmt::format("RAYON_NUM_THREADS={}", threads)}) {
    const nlohmann::json hello = parse_json(process_.read_json_line());
    if (hello.contains("name")) name_ = hello.at("name").get<std::string>();
  }

  // With its version; "" where the environment does not have it.
  const std::string& name() const { return name_; }

  // One pass; its ids go to the file `ids`, unless that is empty.
  Taken run(const std::filesystem::path& text, const std::filesystem::path& ids) {
    process_.write_line(json_text(nlohmann::json{{"text", text.string()}, {"ids", ids.string()}}));
    const nlohmann::json row = parse_json(process_.read_json_line());
    return {row.at("seconds").get<double>(), row.at("cpu_seconds").get<double>()};
  }

 private:
  Process process_;
  std::string name_;
};

void require_same(const std::vector<int32_t>& ours, const std::filesystem::path& file, const std::string& corpus,
                  const std::string& peer) {
  const std::string bytes = read_text(file);
  std::vector<int32_t> theirs(bytes.size() / sizeof(int32_t));
  std::memcpy(theirs.data(), bytes.data(), theirs.size() * sizeof(int32_t));
  if (ours == theirs) return;
  const auto [a, b] = std::mismatch(ours.begin(), ours.end(), theirs.begin(), theirs.end());
  throw Error(fmt::format("{}: ids differ from those of {} at token {}, of {} and {}", corpus, peer, a - ours.begin(),
                          ours.size(), theirs.size()),
              "Compare both with another tokenizer on the text around it: one of them is wrong.");
}

// Ours on a text, with a peer or alone.
struct Race {
  std::string corpus;
  std::string_view text;
  std::filesystem::path file;  // the same
  int threads;
  std::string_view module;  // the peer's, "" for none
  std::string peer;         // with its version
  std::unique_ptr<Encoding> ours;
  // Round by round.
  std::vector<Taken> first = {}, warm = {}, peer_first = {}, peer_warm = {};
};

void run_round(const TokenizeOptions& options, const Scratch& scratch, Race& race) {
  std::optional<Peer> peer;
  if (!race.module.empty()) peer.emplace(options, race.module, scratch / "tokenizer.json", race.threads);
  race.first.push_back(race.ours->first());
  if (peer) {
    const std::filesystem::path ids = race.first.size() == 1 ? scratch / "ids" : std::filesystem::path();
    race.peer_first.push_back(peer->run(race.file, ids));
    if (!ids.empty()) require_same(race.ours->ids(), ids, race.corpus, race.peer);
  }
  // One behind the other: who goes on encoding has the processor's caches to itself.
  Taken warm, peer_warm;
  for (int pass = 0; pass < kWarmPasses; ++pass) warm.keep_best(race.ours->warm());
  for (int pass = 0; peer && pass < kWarmPasses; ++pass) peer_warm.keep_best(peer->run(race.file, ""));
  race.warm.push_back(warm);
  if (peer) race.peer_warm.push_back(peer_warm);
}

// A line per race on stderr: wall clock and, which others on the machine disturb less, processor time.
void report_round(const Race& race) {
  const auto pair = [&](const Taken& ours, const std::vector<Taken>& theirs) {
    if (theirs.empty()) return fmt::format("{:.1f} ms", ours.seconds * 1e3);
    return fmt::format("{:.1f} ms, {:.2f} x the speed of {}, {:.2f} by processor time", ours.seconds * 1e3,
                       theirs.back().seconds / ours.seconds, race.peer, theirs.back().cpu_seconds / ours.cpu_seconds);
  };
  fmt::print(stderr, "{} on {}: first {}; warm {}\n", race.corpus, race.threads,
             pair(race.first.back(), race.peer_first), pair(race.warm.back(), race.peer_warm));
}

Row row_of(const Race& race, const char* pass, const std::vector<Taken>& ours, const std::vector<Taken>& theirs) {
  std::vector<double> speeds, ratios, peer_speeds;
  const auto speed = [&](const Taken& taken) { return static_cast<double>(race.text.size()) * 1e-6 / taken.seconds; };
  for (size_t i = 0; i < ours.size(); ++i) {
    speeds.push_back(speed(ours[i]));
    if (theirs.empty()) continue;
    peer_speeds.push_back(speed(theirs[i]));
    ratios.push_back(theirs[i].seconds / ours[i].seconds);
  }
  const Statistics all = statistics(speeds);
  // The first peer's rows have the plain names: those that stand without any, too.
  const bool plain = race.module.empty() || race.module == kPeers.front().module;
  Row row{.name = fmt::format("{}_{}_{}{}", race.corpus, pass, race.threads,
                              plain ? std::string() : fmt::format("_beside_{}", race.module)),
          .value = all.median,
          .unit = "MB/s",
          .spread = all.spread};
  if (!theirs.empty()) {
    row.peer = fmt::format("{} ({:.1f} MB/s)", race.peer, statistics(peer_speeds).median);
    row.ratio = statistics(ratios).median;
  }
  return row;
}

// Peers that are there, with their versions; what is missing is said.
std::vector<std::pair<PeerKind, std::string>> peers_of(const TokenizeOptions& options,
                                                       const std::filesystem::path& tokenizer) {
  std::vector<std::pair<PeerKind, std::string>> found;
  if (options.peers.empty()) return found;
  for (const PeerKind& kind : kPeers) {
    std::string name = Peer(options, kind.module, tokenizer, 1).name();
    if (name.empty()) {
      fmt::print(stderr, "{} has no {}: bench/peers/setup_tokenizers.sh installs it; no row beside it\n", options.peers,
                 kind.module);
    } else {
      found.emplace_back(kind, std::move(name));
    }
  }
  return found;
}

// The beginning of a text, cut where that changes nothing.
std::string_view beginning(std::string_view text, size_t bytes) {
  return bytes >= text.size() ? text : text.substr(0, data::next_cut(text, bytes));
}

}  // namespace

std::vector<Row> tokenize_rows(const TokenizeOptions& options) {
  // Memory for the ids of a first pass is new, as in the peers' processes, and not that of the pass before.
  ::mallopt(M_MMAP_THRESHOLD, kNewMemory);
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.tokenizer);
  const std::vector<TextCorpus> corpora = text_corpora(options.corpora, options.bytes);
  const Scratch scratch;  // for the files that peers read
  if (!options.peers.empty()) write_atomically(scratch / "tokenizer.json", tokenizer.to_json());
  std::vector<std::pair<PeerKind, std::string>> peers = peers_of(options, scratch / "tokenizer.json");
  // Ours on the whole of a corpus in any case.
  if (peers.empty() || peers.front().first.module != kPeers.front().module)
    peers.insert(peers.begin(), {PeerKind{"", kPeers.front().bytes}, ""});
  std::vector<Race> races;
  for (const TextCorpus& corpus : corpora) {
    for (const auto& [kind, name] : peers) {
      const std::string_view text = beginning(corpus.text, kind.bytes);
      const std::filesystem::path file = scratch / fmt::format("{}_{}.txt", corpus.name, text.size());
      if (!kind.module.empty()) write_atomically(file, std::string(text));
      for (const int threads : {1, 2})
        races.push_back({corpus.name, text, file, threads, kind.module, name, encoding(tokenizer, text, threads)});
    }
  }
  for (int round = 0; round < options.rounds; ++round) {
    for (Race& race : races) {
      run_round(options, scratch, race);
      report_round(race);
    }
  }
  std::vector<Row> rows;
  for (const Race& race : races) {
    rows.push_back(row_of(race, "first", race.first, race.peer_first));
    rows.push_back(row_of(race, "warm", race.warm, race.peer_warm));
  }
  return rows;
}

}  // namespace ridgeline::bench
