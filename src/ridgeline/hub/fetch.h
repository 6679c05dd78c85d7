// Models, tokenizers and datasets from a Hugging Face-compatible hub, into the folder that huggingface_hub keeps too
// (cache.h), or into a plain folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/hub/environment.h"
#include "ridgeline/hub/names.h"
#include "ridgeline/hub/selection.h"
#include "ridgeline/hub/transfer.h"

namespace ridgeline::hub {

struct FetchRequest {
  Repository repository;
  std::string revision = "main";             // a branch, a tag, or a commit (which is never looked up)
  std::optional<std::filesystem::path> out;  // files go here; else into the cache
  Wanted wanted;
  TransferSettings transfer;
};

struct FetchPlan {
  std::string commit;
  std::vector<RemoteFile> files;      // to be there in the end
  std::vector<std::string> left_out;  // by the rules of selection.h
  std::vector<std::string> notes;
  int64_t bytes = 0;        // to be there in the end; equal content counts once where it is kept once
  int64_t bytes_there = 0;  // of them, before the first is fetched
};

struct FetchReport {
  std::function<void(const FetchPlan&)> plan;  // once, before anything is fetched
  std::function<void(const TransferProgress&)> progress;
  std::function<void(const std::string&)> note;
};

// Returns the folder that holds the files: the snapshot in the cache, or `out`. Nothing that is there whole is fetched
// again; in `out`, a file that is there and is another one is an error. With HF_HUB_OFFLINE nothing is asked of anyone.
std::filesystem::path fetch(const Environment& environment, const FetchRequest& request, const FetchReport& report);

}  // namespace ridgeline::hub
