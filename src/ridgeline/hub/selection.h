// Which files of a repository are fetched: pure functions of its list of files.
#pragma once

#include <string>
#include <vector>

#include "ridgeline/hub/listing.h"
#include "ridgeline/hub/names.h"

namespace ridgeline::hub {

// What a user asked for.
struct Wanted {
  std::vector<std::string> include;  // patterns (matches()); empty: by the rules below
  std::vector<std::string> exclude;
  std::string config;  // of a dataset; empty: not said
  std::string split;
};

struct Selection {
  std::vector<std::string> paths;     // in the order of the list
  std::vector<std::string> left_out;  // what the rules, and no pattern, left out
  std::vector<std::string> notes;     // what a user should know, a sentence each
};

// Whether a file holds weights of a model in some form, or is the index of such files.
bool is_weights(std::string_view path);

// A model without patterns: the files at its top. Of weights that come in several forms only one: model.safetensors, or
// the pieces of a safetensors index; else other safetensors; else PyTorch's, with a note. Folders (onnx/, …) are left
// out. With `include`: what matches, and nothing else. Error: a pattern that matches nothing, with the nearest path; a
// repository without files.
Selection select_model(const std::vector<std::string>& paths, const Wanted& wanted);

// A dataset. The files of a configuration are, the first of these that finds any:
//   1. what the card says (`card`, "configs");
//   2. what lies in a folder of its name, where "a_b_c" is also a/b/c, or is called NAME.*, NAME-*, NAME_part_*,
//      NAME_sha256*, NAME_meta*;
//   3. OSCAR's names: of unshuffled_deduplicated_LANGUAGE the files of LANGUAGE in deduplicated/ or packaged/, of
//      deduplicated_LANGUAGE those in packaged/, of unshuffled_original_LANGUAGE and original_LANGUAGE those in
//      original/ or packaged_nondedup/; and of any of these the files of LANGUAGE where they lie in one folder only.
// Those of a split are what the card says, else those whose path has its name as a word; without such a word anywhere
// all is "train". Without a configuration: everything, unless there are several. Error: no such configuration or split,
// with the nearest ones; a pattern that matches nothing.
Selection select_dataset(const std::vector<std::string>& paths, const std::vector<DataFiles>& card,
                         const Wanted& wanted);

}  // namespace ridgeline::hub
