// Random layouts that together show every pair of options.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "layout.h"

namespace ridgeline::layouts {

// How units are cut into segments: not at all, what slices do not cut apart, by chance.
extern const std::array<model::Segmentation, 4> kSegmentations;

// Options of a layout, each one small number, so that pairs of them can be counted.
enum Option {
  family,
  precision,
  dropout,
  level,
  ranks,
  group,
  cadence,
  gather,
  prefetch,
  micro_batches,
  rows,
  recompute,
  recompute_every,
  overlap,
  team,
  offload,
  segmentation,
  slices,
  sequence,
  stages,
  schedule,
  cut,
  option_count
};
using Choice = std::array<int, option_count>;

class Draws {
 public:
  // `seed` numbers the sequence of draws.
  explicit Draws(uint32_t seed);

  // Of several candidates the one that shows most pairs of values not seen before.
  Layout next();
  int pairs_seen() const { return seen_count_; }
  // Pairs that some of very many draws shows, and none of those so far.
  std::vector<std::string> missing() const;

 private:
  Choice draw();

  const uint32_t seed_;
  uint32_t number_ = 0;
  std::vector<bool> seen_;
  int seen_count_ = 0;
};

}  // namespace ridgeline::layouts
