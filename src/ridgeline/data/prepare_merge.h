// How finished parts become a dataset. Internal to the room.
#pragma once

#include <filesystem>
#include <vector>

#include "ridgeline/data/partial_dataset.h"
#include "ridgeline/data/prepare.h"

namespace ridgeline::data {

// `parts`: one of each number from 0 on, in order, all in `dataset`; the streams that hold them are not written any
// more. Puts the dataset into place; where all tokens lie in the first stream in their order, as they are, else each
// process copies those of streams index, index + count, … to their places in a new file. `note` needs no checksums.
// Error also: tokens that are no more what their checksums say.
void merge_parts(const PartialDataset& dataset, const std::vector<StoredPart>& parts,
                 const std::filesystem::path& prefix, DatasetNote note, const PrepareSharing& sharing);

}  // namespace ridgeline::data
