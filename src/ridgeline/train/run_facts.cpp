// What all ranks of a run must have in common.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>
#include <thread>
#include <utility>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/count.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/file_identity.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/data/fingerprint.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/train/agreement.h"
#include "ridgeline/train/config_keys.h"
#include "ridgeline/train/host_work.h"
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

// The facts of a run as they are collected: some follow from what one process of a host reads.
class FactList {
 public:
  using Text = std::function<std::string(const std::string& value)>;

  void add(std::string key, std::string value) { facts_.push_back({std::move(key), std::move(value)}); }
  // The fact's value is `text` of what is read.
  void add(std::string key, Reading reading, Text text) {
    texts_.emplace_back(facts_.size(), std::move(text));
    readings_.push_back(std::move(reading));
    facts_.push_back({std::move(key), ""});
  }
  void add(std::string key, Reading reading) {
    add(std::move(key), std::move(reading), [](const std::string& value) { return value; });
  }

  std::span<const Reading> readings() const { return readings_; }
  // `values`: of readings(); one that nobody could read is read here. Error: nor could this process.
  std::vector<Fact> facts(const std::vector<std::optional<std::string>>& values) {
    for (size_t i = 0; i < texts_.size(); ++i) {
      const auto& [place, text] = texts_[i];
      facts_[place].value = text(values[i] ? *values[i] : readings_[i].read());
    }
    return facts_;
  }

 private:
  std::vector<Fact> facts_;
  std::vector<Reading> readings_;
  std::vector<std::pair<size_t, Text>> texts_;  // which fact's
};

// What is learnt of `datasets` is kept there.
void add_datasets(FactList& facts, std::string_view key, const DatasetList& list,
                  std::vector<RunData::Dataset>& datasets, bool verify) {
  if (list.empty()) facts.add(fmt::format("{} (content)", key), "not given");
  if (list.is_blend()) {
    std::vector<double> weights;
    for (const DatasetList::Entry& entry : list.entries) weights.push_back(entry.weight);
    facts.add(fmt::format("{} (weights)", key), fmt::format("{}", fmt::join(weights, ", ")));
  }
  for (size_t i = 0; i < list.entries.size(); ++i) {
    const std::string name = entry_name(key, list, i);
    RunData::Dataset& known = datasets[i];
    const std::shared_ptr<const data::IndexedDataset> dataset = known.dataset;
    facts.add(fmt::format("{} (content)", name),
              {.of = "fingerprint of\n" + dataset->identity(),
               .read = [dataset] { return data::to_json(data::fingerprint(*dataset)).dump(); }},
              [&known](const std::string& value) {
                known.fingerprint = data::fingerprint_from_json(nlohmann::json::parse(value), "what was read");
                const int64_t block = known.dataset->block();
                const size_t files = known.dataset->files().size();
                return to_text(*known.fingerprint) + (block > 0 ? fmt::format(", blocks of {}", block) : "") +
                       (files > 1 ? fmt::format(", in {} files", files) : "");
              });
    if (verify) facts.add(fmt::format("{} (checksums in its note)", name), checksums_text(dataset->note()));
  }
}

// By their names and identities.
std::string text_of_files(std::string_view what, const std::vector<fs::path>& files) {
  std::string text(what);
  for (const fs::path& path : files)
    text += fmt::format("\n{} {}", path.filename().string(), to_text(identity_of(path)));
  return text;
}

// Names, sizes and samples of a model's files: at most as much as of a dataset, however many there are.
std::string weights_text(const std::vector<fs::path>& files) {
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
  return fmt::format("{}, {} bytes, content {:08x}", format_counted(std::ssize(files), "file"), bytes, sum);
}

Reading weights_reading(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors" || entry.path().filename() == "config.json")
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return {.of = text_of_files("weights", files), .read = [files] { return weights_text(files); }};
}

// Of a tokenizer that Ridgeline cannot read: a run takes it along all the same.
std::string bytes_text(const data::TokenizerFiles& files) {
  uint32_t sum = 0;
  for (const auto& [name, bytes] : files.all())
    sum = crc32c(bytes_of(bytes), crc32c(bytes_of(fmt::format("{} {}\n", name, bytes.size())), sum));
  return fmt::format("{}, content {:08x}", format_counted(std::ssize(files.all()), "file"), sum);
}

Reading tokenizer_reading(const fs::path& path) {
  std::error_code ignored;
  const bool is_file = fs::is_regular_file(path, ignored);
  const fs::path folder = !is_file ? path : path.has_parent_path() ? path.parent_path() : ".";
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    if (data::TokenizerFiles::is_one(entry.path().filename().string())) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (is_file) files.insert(files.begin(), path);
  return {.of = text_of_files(is_file ? "tokenizer of the first" : "tokenizer", files), .read = [path] {
            try {
              return fmt::format("hash {}", data::Tokenizer::load(path).hash());
            } catch (const data::UnsupportedTokenizer&) {
              return bytes_text(data::TokenizerFiles::read(path));
            }
          }};
}

void add_checkpoint(FactList& facts, const JobOptions& options) {
  constexpr const char* kKey = "checkpoint to go on from";
  const std::optional<checkpoint::CheckpointEntry> from = resumed_checkpoint(options);
  if (!from) return facts.add(kKey, "none");
  const fs::path manifest = from->folder / checkpoint::kManifestName;
  facts.add(kKey,
            {.of = text_of_files("manifest", {manifest}),
             .read = [manifest] { return fmt::format("manifest {:08x}", crc32c(bytes_of(read_text(manifest)))); }},
            [name = from->folder.filename().string()](const std::string& value) {
              return fmt::format("'{}', {}", name, value);
            });
}

// Of the file that runs: other builds round and reduce in other orders.
Reading program_reading() {
  const fs::path path = "/proc/self/exe";
  return {.of = text_of_files("program", {path}), .read = [path] {
            const MappedFile file(path, MappedFile::Access::sequential);
            return fmt::format("{} bytes, checksum {:08x}", file.bytes().size(), crc32c(file.bytes()));
          }};
}

FactList facts_to_read(const Config& config, const JobOptions& options, RunData& opened) {
  FactList facts;
  facts.add("program", program_reading());
  facts.add("instruction set (RIDGELINE_ISA)", device::name_of(device::isa()));
  facts.add("--out", whole_path(options.out));
  facts.add("--resume", options.resume ? "given" : "not given");
  facts.add("--resume-from", options.resume_from ? whole_path(*options.resume_from) : "not given");
  facts.add("--verify-data", options.verify_data ? "given" : "not given");
  facts.add("--trace", options.trace ? whole_path(*options.trace) : "not given");
  facts.add("--trace-first", std::to_string(options.trace_first));
  facts.add("--trace-last", std::to_string(options.trace_last));
  for (const Key& key : keys()) {
    if (std::find(kOwn.begin(), kOwn.end(), key.name) == kOwn.end())
      facts.add(std::string(key.name), value_text(slot_of(key, config)));
  }
  opened = open_data(config);
  add_datasets(facts, "data.train", config.data.train, opened.train, options.verify_data);
  add_datasets(facts, "data.valid", config.data.valid, opened.valid, options.verify_data);
  const std::string& tokenizer = config.data.tokenizer;
  if (tokenizer.empty()) {
    facts.add("data.tokenizer (content)", "not given");
  } else {
    facts.add("data.tokenizer (content)", tokenizer_reading(tokenizer));
  }
  if (config.train.init_from.empty() || options.resume) {
    facts.add("train.init_from (content)", "not read");
  } else {
    facts.add("train.init_from (content)", weights_reading(config.train.init_from));
  }
  add_checkpoint(facts, options);
  return facts;
}

}  // namespace

Standing facts_of(comm::World& world, const Config& config, const JobOptions& options, RunData& opened) {
  FactList list;
  Standing standing = standing_of([&] {
    list = facts_to_read(config, options, opened);
    return std::vector<Fact>();
  });
  const std::vector<std::optional<std::string>> values =
      read_once(world, standing.trouble ? std::span<const Reading>() : list.readings());
  return standing.trouble ? standing : standing_of([&] { return list.facts(values); });
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
