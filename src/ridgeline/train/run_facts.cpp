// What all ranks of a run must have in common.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>
#include <thread>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/file.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/data/fingerprint.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/train/agreement.h"
#include "ridgeline/train/config_keys.h"
#include "ridgeline/train/run_folder.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

// Keys that each rank may have its own way: no bit of the result depends on them. Of paths the content is compared.
constexpr std::array<std::string_view, 6> kOwn = {
    "train.threads", "optimizer.offload_directory", "data.train", "data.valid", "data.tokenizer", "train.init_from"};

std::string whole_path(const fs::path& path) {
  std::error_code ignored;
  const fs::path whole = fs::weakly_canonical(fs::absolute(path, ignored), ignored);
  return whole.empty() ? path.string() : whole.string();
}

std::string checksums_text(const std::optional<data::DatasetNote>& note) {
  if (!note || note->checksums.empty()) return "none";
  return fmt::format("of {} blocks, together {:08x}", note->checksums.size(),
                     crc32c(bytes_of(std::span<const uint32_t>(note->checksums))));
}

void add_datasets(std::vector<Fact>& facts, std::string_view key, const DatasetList& list, bool verify) {
  if (list.empty()) facts.push_back({fmt::format("{} (content)", key), "not given"});
  if (list.is_blend()) {
    std::vector<double> weights;
    for (const DatasetList::Entry& entry : list.entries) weights.push_back(entry.weight);
    facts.push_back({fmt::format("{} (weights)", key), fmt::format("{}", fmt::join(weights, ", "))});
  }
  for (size_t i = 0; i < list.entries.size(); ++i) {
    const std::string name = entry_name(key, list, i);
    const auto dataset = data::IndexedDataset::open(list.entries[i].prefix);
    const std::string blocks = dataset->block() > 0 ? fmt::format(", blocks of {}", dataset->block()) : "";
    const size_t files = dataset->files().size();
    facts.push_back({fmt::format("{} (content)", name), to_text(data::fingerprint(*dataset)) + blocks +
                                                            (files > 1 ? fmt::format(", in {} files", files) : "")});
    if (verify) facts.push_back({fmt::format("{} (checksums in its note)", name), checksums_text(dataset->note())});
  }
}

// Names, sizes and samples of a model's files: at most as much as of a dataset, however many there are.
std::string weights_text(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors" || entry.path().filename() == "config.json")
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  int64_t bytes = 0;
  uint32_t sum = 0;
  for (const fs::path& path : files) {
    const File file(path, File::Mode::read);
    const int64_t size = file.size();
    bytes += size;
    sum = crc32c(bytes_of(fmt::format("{} {}\n", path.filename().string(), size)), sum);
    const std::vector<data::ByteRange> blocks = data::sampled_blocks(size);
    std::vector<std::byte> buffer;
    for (size_t i = 0; i < blocks.size(); i += files.size()) {
      buffer.resize(static_cast<size_t>(blocks[i].bytes));
      file.read_at(blocks[i].first, buffer);
      sum = crc32c(buffer, sum);
    }
  }
  return fmt::format("{} files, {} bytes, content {:08x}", files.size(), bytes, sum);
}

std::string checkpoint_text(const JobOptions& options) {
  const std::optional<checkpoint::CheckpointEntry> from = resumed_checkpoint(options);
  if (!from) return "none";
  const std::string manifest = read_text(from->folder / checkpoint::kManifestName);
  return fmt::format("'{}', manifest {:08x}", from->folder.filename().string(), crc32c(bytes_of(manifest)));
}

// Of the file that runs: other builds round and reduce in other orders.
std::string program_text() {
  const MappedFile file("/proc/self/exe", MappedFile::Access::sequential);
  return fmt::format("{} bytes, checksum {:08x}", file.bytes().size(), crc32c(file.bytes()));
}

}  // namespace

std::vector<Fact> facts_of(const Config& config, const JobOptions& options) {
  std::vector<Fact> facts = {{"program", program_text()},
                             {"instruction set (RIDGELINE_ISA)", device::name_of(device::isa())},
                             {"--out", whole_path(options.out)},
                             {"--resume", options.resume ? "given" : "not given"},
                             {"--resume-from", options.resume_from ? whole_path(*options.resume_from) : "not given"},
                             {"--verify-data", options.verify_data ? "given" : "not given"},
                             {"--trace", options.trace ? whole_path(*options.trace) : "not given"},
                             {"--trace-first", std::to_string(options.trace_first)},
                             {"--trace-last", std::to_string(options.trace_last)}};
  for (const Key& key : keys()) {
    if (std::find(kOwn.begin(), kOwn.end(), key.name) == kOwn.end())
      facts.push_back({std::string(key.name), value_text(slot_of(key, config))});
  }
  add_datasets(facts, "data.train", config.data.train, options.verify_data);
  add_datasets(facts, "data.valid", config.data.valid, options.verify_data);
  const std::string& tokenizer = config.data.tokenizer;
  facts.push_back({"data.tokenizer (content)",
                   tokenizer.empty() ? "not given" : fmt::format("hash {}", data::Tokenizer::load(tokenizer).hash())});
  facts.push_back({"train.init_from (content)", config.train.init_from.empty() || options.resume
                                                    ? "not read"
                                                    : weights_text(config.train.init_from)});
  facts.push_back({"checkpoint to go on from", checkpoint_text(options)});
  return facts;
}

Fact folder_fact(const JobOptions& options) {
  // A shared file system may show a new file a moment later on other hosts.
  constexpr int kLooks = 50;
  std::string token;
  for (int look = 0; look < kLooks && token.empty(); ++look) {
    if (look > 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    token = lock_token(lock_file_of(options.out));
  }
  return {"the folder of --out", token.empty() ? "one without rank 0's lock file" : "with the lock file " + token};
}

}  // namespace ridgeline::train
