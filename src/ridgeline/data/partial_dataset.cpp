#include "ridgeline/data/partial_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/data/dataset_writer.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferBytes = size_t{1} << 18;  // still in the processor's cache when they are written
// After so many the system is told to write: it would wait for seconds, and the end of `prepare` for all of it.
constexpr int64_t kSyncBytes = int64_t{8} << 20;
constexpr int64_t kReadLengths = int64_t{1} << 18;
constexpr std::array kStreamFiles = {"tokens-", "lengths-", "parts-", "lock-"};

bool is_of_partial(const std::string& name) {
  return name == "joined" || name.starts_with("state") ||
         std::any_of(kStreamFiles.begin(), kStreamFiles.end(),
                     [&](const char* kind) { return name.starts_with(kind); });
}

// The number of stream that a file called KIND-NUMBER is of.
std::optional<int> stream_of(const std::string& name, std::string_view kind) {
  if (!name.starts_with(kind)) return std::nullopt;
  int stream = 0;
  const auto [end, code] = std::from_chars(name.data() + kind.size(), name.data() + name.size(), stream);
  if (code != std::errc() || end != name.data() + name.size() || stream < 0) return std::nullopt;
  return stream;
}

std::string short_text(const nlohmann::json& value) {
  std::string text = json_text(value, -1, NotUtf8::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "…";
  return text;
}

// Lines of what is not kept must not outlive the tokens that they speak of. Returns their bytes.
int64_t write_lines(const fs::path& path, std::span<const StoredPart> parts) {
  std::string lines;
  for (const StoredPart& part : parts) lines += to_line(part.record);
  write_atomically(path, lines);
  return static_cast<int64_t>(lines.size());
}

File open_or_create(const fs::path& path) {
  return {path, fs::exists(path) ? File::Mode::update : File::Mode::create};
}

// The first thing that differs between how a dataset was begun and how it would go on.
std::string difference(const nlohmann::json& before, const nlohmann::json& now) {
  for (const auto& [key, value] : now.items()) {
    const auto old = before.find(key);
    if (old == before.end()) return fmt::format("it has no '{}'", key);
    if (*old == value) continue;
    if (key != "inputs" || !old->is_array())
      return fmt::format("{} was {}, and is {}", key, short_text(*old), short_text(value));
    if (old->size() != value.size())
      return fmt::format("there were {} input files, and are {}", old->size(), value.size());
    for (size_t i = 0; i < value.size(); ++i) {
      if ((*old)[i] != value[i])
        return fmt::format("input {} was {}, and is {}", i + 1, short_text((*old)[i]), short_text(value[i]));
    }
  }
  return "it was begun by another version of Ridgeline";
}

}  // namespace

PartialDataset::PartialDataset(const fs::path& prefix, TokenType type)
    : folder_(with_suffix(prefix, ".partial")), type_(type) {}

fs::path PartialDataset::file(const char* kind, int stream) const {
  return folder_ / fmt::format("{}-{:04}", kind, stream);
}

void PartialDataset::begin(const nlohmann::json& state, bool fresh) {
  std::error_code code;
  if (fs::exists(folder_, code)) {
    bool parts = false;
    if (!fs::is_directory(folder_, code))
      throw Error(fmt::format("'{}' exists, and Ridgeline did not write it", folder_.string()),
                  "Move it out of the way, or choose another --out.");
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      if (!is_of_partial(name)) {
        throw Error(fmt::format("'{}' is not of an unfinished dataset, and in its folder", entry.path().string()),
                    "Move it out of the way, or choose another --out.");
      }
      const std::optional<int> stream = stream_of(name, "parts-");
      parts = parts || (stream && fs::file_size(entry.path(), code) > 0 && fs::exists(file("tokens", *stream), code));
    }
    const fs::path state_file = folder_ / "state";
    const nlohmann::json before =
        fs::exists(state_file, code) ? parse_json_if_any(read_text(state_file)) : nlohmann::json::object();
    if (before == state && !fresh) return;
    if (parts && !fresh) {
      throw Error(
          fmt::format("'{}' is an unfinished dataset of other inputs or arguments: {}", folder_.string(),
                      difference(before.is_object() ? before : nlohmann::json::object(), state)),
          "With the inputs and arguments of before it goes on; --fresh removes what was done, and begins anew.");
    }
    remove();
  }
  make_folder(folder_);
  try {
    write_atomically(folder_ / "state", json_text(state, 1, NotUtf8::replace) + "\n");
  } catch (...) {
    fs::remove(folder_, code);
    throw;
  }
}

void PartialDataset::join(const nlohmann::json& state) const {
  const nlohmann::json before = parse_json_if_any(read_text(folder_ / "state"));
  if (before == state) return;
  throw Error(fmt::format("the first process prepares other inputs, or has other arguments, than this one: {}",
                          difference(before.is_object() ? before : nlohmann::json::object(), state)),
              "All must have one command line, and see the same files.");
}

std::vector<StoredPart> PartialDataset::stored() const {
  std::vector<std::pair<int, fs::path>> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
    if (const auto stream = stream_of(entry.path().filename().string(), "parts-"))
      files.emplace_back(*stream, entry.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<StoredPart> parts;
  for (const auto& [stream, path] : files) {
    const std::string text = read_text(path);
    for (size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
      if (auto record = record_of(std::string_view(text).substr(begin, end - begin), size_of(type_)))
        parts.push_back({stream, std::move(*record)});
    }
  }
  return parts;
}

bool PartialDataset::verify(const StoredPart& part) const {
  const PartRecord& record = part.record;
  try {
    const File tokens(file("tokens", part.stream), File::Mode::read);
    const std::vector<ByteRange> pieces = block_pieces({record.tokens_begin, record.tokens * size_of(type_)});
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (checksum_of(tokens, pieces[i]) != record.sums[i]) return false;
    }
    uint32_t sum = 0;
    int64_t documents = 0, all = 0;
    read_lengths(part, [&](std::span<const int32_t> lengths) {
      sum = crc32c(bytes_of(lengths), sum);
      documents += static_cast<int64_t>(lengths.size());
      for (const int32_t length : lengths) all += length;
    });
    return sum == record.lengths_sum && all == record.tokens && documents == record.documents;
  } catch (const Error&) {  // a file that is not there, or too short
    return false;
  }
}

void PartialDataset::read_lengths(const StoredPart& part,
                                  const std::function<void(std::span<const int32_t>)>& visit) const {
  const PartRecord& record = part.record;
  const File lengths(file("lengths", part.stream), File::Mode::read);
  std::vector<int32_t> some(static_cast<size_t>(std::min(record.documents, kReadLengths)));
  for (int64_t done = 0; done < record.documents; done += kReadLengths) {
    const auto now = std::span(some).first(static_cast<size_t>(std::min(record.documents - done, kReadLengths)));
    lengths.read_at(record.lengths_begin + 4 * done, std::as_writable_bytes(now));
    visit(now);
  }
}

void PartialDataset::remove() const {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, ignored)) {
    if (is_of_partial(entry.path().filename().string())) fs::remove(entry.path(), ignored);
  }
  fs::remove(folder_, ignored);
}

PartialStream::PartialStream(const PartialDataset& dataset, int stream, int64_t vocabulary,
                             std::span<const StoredPart> kept, BlockCut cut)
    : dataset_(dataset),
      vocabulary_(vocabulary),
      parts_end_(write_lines(dataset.file("parts", stream), kept)),
      parts_file_(dataset.file("parts", stream), File::Mode::update),
      tokens_file_(open_or_create(dataset.file("tokens", stream))),
      lengths_file_(open_or_create(dataset.file("lengths", stream))),
      cut_(std::move(cut)) {
  for (const StoredPart& part : kept) {
    const PartRecord& record = part.record;
    tokens_end_ = std::max(tokens_end_, record.tokens_begin + record.tokens * size_of(dataset.type()));
    lengths_end_ = std::max(lengths_end_, record.lengths_begin + 4 * record.documents);
  }
  syncing_end_ = tokens_end_;
  tokens_file_.resize(tokens_end_);
  lengths_file_.resize(lengths_end_);
  buffer_.reserve(kBufferBytes + (size_t{1} << 18));
  begin_part();
}

void PartialStream::begin_part() {
  record_ = {};
  record_.tokens_begin = tokens_end_;
  record_.lengths_begin = lengths_end_;
  sums_ = BlockChecksums(tokens_end_);
}

void PartialStream::flush() {
  tokens_file_.write_at(tokens_end_, buffer_);
  sums_.add(buffer_);
  tokens_end_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
  if (tokens_end_ - syncing_end_ >= kSyncBytes) {
    tokens_file_.begin_sync(syncing_end_, tokens_end_ - syncing_end_);
    syncing_end_ = tokens_end_;
  }
  const auto lengths = bytes_of(std::span<const int32_t>(lengths_));
  lengths_file_.write_at(lengths_end_, lengths);
  record_.lengths_sum = crc32c(lengths, record_.lengths_sum);
  lengths_end_ += static_cast<int64_t>(lengths.size());
  lengths_.clear();
}

template <typename Id>
void PartialStream::write(std::span<const Id> tokens) {
  for (size_t done = 0; done < tokens.size();) {
    const std::span<const Id> some = tokens.subspan(done, std::min<size_t>(tokens.size() - done, 1 << 16));
    append_tokens(some, dataset_.type(), vocabulary_, record_.documents, buffer_);
    done += some.size();
    if (buffer_.size() >= kBufferBytes) flush();
  }
}

void PartialStream::write_length(int64_t tokens) {
  lengths_.push_back(static_cast<int32_t>(tokens));
  record_.tokens += tokens;
  ++record_.documents;
  tokens_ += tokens;
  ++documents_;
  if (lengths_.size() * sizeof(int32_t) >= kBufferBytes) flush();
}

void PartialStream::write_block() {
  write(std::span<const int32_t>(block_));
  write_length(cut_.tokens);
  for (const int32_t id : block_) record_.blocks.text_bytes += cut_.bytes_of_ids[static_cast<size_t>(id)];
  block_.clear();
}

template <typename Id>
void PartialStream::append(std::span<const Id> tokens) {
  length_ += static_cast<int64_t>(tokens.size());
  if (cut_.tokens == 0) return write(tokens);
  while (!tokens.empty()) {
    const size_t some = std::min(static_cast<size_t>(cut_.tokens) - block_.size(), tokens.size());
    block_.insert(block_.end(), tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(some));
    tokens = tokens.subspan(some);
    if (std::ssize(block_) == cut_.tokens) write_block();
  }
}

template void PartialStream::append(std::span<const uint16_t> tokens);
template void PartialStream::append(std::span<const int32_t> tokens);

void PartialStream::end_document() {
  add_length(record_.lengths, length_);
  if (cut_.tokens == 0) {
    require_countable(length_, record_.documents);
    write_length(length_);
  } else {
    record_.blocks.add({.documents = 1,
                        .short_documents = length_ < cut_.tokens ? 1 : 0,
                        .dropped_tokens = std::ssize(block_),
                        .longest = length_});
    block_.clear();
  }
  length_ = 0;
}

PartRecord PartialStream::finish_part(int64_t part, CorpusCounts counts, int64_t lines) {
  flush();
  record_.part = part;
  record_.sums = sums_.all();
  record_.lines = lines;
  record_.counts = std::move(counts);
  const std::string line = to_line(record_);
  parts_file_.write_at(parts_end_, bytes_of(line));
  parts_end_ += static_cast<int64_t>(line.size());
  PartRecord finished = std::move(record_);
  begin_part();
  return finished;
}

void PartialStream::close() {
  for (File* file : {&tokens_file_, &lengths_file_, &parts_file_}) file->close();
}

}  // namespace ridgeline::data
