// Documents of llm.c's token files, found before anything opens them: once for all processes of a run.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {

// The datasets of data.train and data.valid.
std::vector<std::string> dataset_names(const Config& config);

// Whether any of them is of llm.c, and so may have documents to be found.
bool any_of_llmc(const Config& config);

// Reads files of llm.c among `datasets` whose documents nobody has found yet, and keeps where they begin
// (data/document_starts.h). What people should know goes to `console` (null: silent), and progress when it takes long.
void find_documents(const std::vector<std::string>& datasets, const device::Machine& machine, std::FILE* console);

// The same for all processes of a run; collective over the world. Rank 0 reads, and then, where its disk is not theirs,
// the first rank of each other host; the others wait, for longer than the timeout if need be. `console` is rank 0's.
// Errors as of agree().
void find_documents(comm::World& world, const Config& config, const device::Machine& machine, std::FILE* console);

}  // namespace ridgeline::train
