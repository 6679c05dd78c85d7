// Learns the merges of a byte-level BPE vocabulary from counted pieces. Internal to the room; see tokenizer_trainer.h.
#pragma once

#include <cstdint>
#include <functional>

#include "ridgeline/data/piece_counts.h"
#include "ridgeline/data/tokenizer.h"

namespace ridgeline::data {

// The 256 bytes, then a token per merge, up to `tokens` in all. `progress(merges)`: how many there are, now and then,
// first 0. Cost: about the number of places where a merge happens; memory: about 40 bytes per pair of tokens that
// occurs, and 4 for each word that it occurs in.
TokenizerParts learn_merges(const PieceCounts& counts, int64_t tokens, const std::function<void(int64_t)>& progress);

}  // namespace ridgeline::data
