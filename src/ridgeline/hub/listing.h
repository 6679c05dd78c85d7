// What a hub says about a repository, read from its JSON. Nothing of it is trusted: whatever becomes a path, a name or
// a size is checked here, once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/hub/digest.h"

namespace ridgeline::hub {

// Of a file, in bytes: what a hub says beyond that is refused.
constexpr int64_t kLargestFile = int64_t{1} << 50;

// A file of a commit.
struct RemoteFile {
  std::string path;   // safe_path()
  int64_t size = -1;  // bytes; -1: not known yet
  std::string etag;  // by which its content is known, and the name of its blob: letters, digits, '-', '.', '_', at most
                     // 128 of them; empty: not known yet
  DigestKind digest() const { return digest_kind(etag); }
};

// Some files of a dataset, by name: a configuration and a split of it, and patterns of their paths as its card has
// them:
// '*' and '?' stay within a folder or file name, a component "**" is any number of folders (in_folders()).
struct DataFiles {
  std::string config;
  std::string split;  // empty: of every split
  std::vector<std::string> patterns;
};

struct RepositoryInfo {
  std::string commit;              // is_commit()
  std::vector<std::string> paths;  // of its files; empty where the answer has none
  std::vector<DataFiles> data;     // what its card says
};

// The answer of /api/models/NAME, /api/datasets/NAME and of .../revision/REVISION. Error when it is none; `where` names
// it.
RepositoryInfo parse_info(std::string_view json, std::string_view where);

// One page of .../tree/REVISION?recursive=true, appended. Error when it is none; `where` names it.
void parse_tree(std::string_view json, std::string_view where, std::vector<RemoteFile>& files);

// The list of a commit's files as huggingface_hub keeps it in its cache (trees/COMMIT.json); nothing where it is none,
// or says of a file what cannot be.
std::optional<std::vector<RemoteFile>> parse_kept_tree(std::string_view json);

// Names of branches and tags, as .../refs answers; empty where it is no such answer.
std::vector<std::string> parse_refs(std::string_view json);

// The address of rel="next" in a header Link; "" where there is none.
std::string next_page(std::string_view link);

// An ETag as a name: without W/ and quotes; "" where it cannot be the name of a file.
std::string plain_etag(std::string_view header);

// The files of weights that "weight_map" of an index (model.safetensors.index.json) names, each once. Error when it is
// no sound index.
std::vector<std::string> indexed_files(std::string_view json, std::string_view where);

}  // namespace ridgeline::hub
