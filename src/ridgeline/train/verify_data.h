// All of a run's data read before it begins, for `train --verify-data`: fingerprints are of samples where it is large.
#pragma once

#include <cstdio>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {

// Collective over the world. Every host reads every byte of data.train and data.valid (each dataset of several) once;
// its ranks share the blocks (data/block_checksums.h), and all hosts keep pace. Checksums must be those that `prepare`
// wrote beside the data, or, where it wrote none, those of rank 0's host. What differs is refused as by agree(), with
// the ranks and their host, the file and the bytes. Rank 0 shows progress, and what was compared, on `console` (may be
// null).
void verify_data(comm::World& world, const Config& config, std::FILE* console);

}  // namespace ridgeline::train
