// Whether all ranks of a run were started alike, found out before anything is allocated. Ranks that are processes may
// have been given different configurations, data, programs or environments; trained along, the result would be silently
// none of theirs, or a collective would hang.
//
// Made for ten thousand ranks: each sums up what it knows in 128 bits, and one collective of seven numbers tells
// whether all are the same. Only when they are not do details travel: a list of names and a few values, bounded
// whatever differs.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::train {

// Something that must be the same on every rank. `key` as the user knows it: "train.seed", "--resume", "data.train
// (content)"; no key occurs twice.
struct Fact {
  std::string key, value;
};

// What one rank brings to the meeting.
struct Standing {
  std::vector<Fact> facts;
  // What went wrong while they were collected. A rank without the facts it should have sets `incomplete`: then its
  // trouble is what is reported, and not what it therefore lacks.
  std::optional<Error> trouble;
  bool incomplete = false;
  // Whether this rank needs something that takes all of them; what agree() returns is whether any does.
  bool asks = false;
};

// Facts as `collect` returns them, or the trouble that it throws.
Standing standing_of(const std::function<std::vector<Fact>()>& collect);

// Collective over the world. Returns when all ranks have the same facts and none is in trouble, on all of them whether
// any asks; else the world fails with one message, thrown on every rank: what differs, key by key, with the ranks that
// have each value ("train.seed: 1 on ranks 0-2, 4; 2 on rank 3 (host n17)"; the host also where ranks share one of
// several), at most `kDifferencesShown` keys of `kValuesShown` values; or the trouble, with the first rank that has it
// unless all do. Within seconds, and without a failure file: nothing has begun.
bool agree(comm::World& world, const Standing& mine);

constexpr int kDifferencesShown = 12;
constexpr int kValuesShown = 4;

// The facts of a run: every key of the configuration that all ranks must share, how it was asked to go on and from
// which checkpoint, what the data, the tokenizer and the initial weights hold, which program runs on which
// instructions. Collective over the world: what files hold is read by one process of each host (host_work.h). What is
// not there is this rank's trouble. The data, and what was learnt of them, go to `opened`.
Standing facts_of(comm::World& world, const Config& config, const JobOptions& options, RunData& opened);

// Whether this process sees the folder of the run itself, not another of the same name on its own disk: by the lock
// that rank 0 has taken there. Call after a first agreement.
Fact folder_fact(const JobOptions& options);

// "0-2, 4, 7-9 and 12 more": ascending ranks, at most `most` stretches of them.
std::string ranks_text(std::span<const int> ranks, int most = 8);

}  // namespace ridgeline::train
