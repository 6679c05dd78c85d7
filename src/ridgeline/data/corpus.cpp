#include "ridgeline/data/corpus.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/corpus_problems.h"
#include "ridgeline/data/ordered_pipeline.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunksAhead = 16;  // of a file that is decompressed ahead
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// For the message that ends everything: lines of a file up to where one of its ranges begins.
int64_t lines_before(const CorpusFile& file, int64_t end) {
  if (end == 0) return 0;
  const MappedFile whole(file.path, MappedFile::Access::sequential);
  return count_lines(whole.text().substr(0, static_cast<size_t>(end)), file.format);
}

void add_all(CountByName& counts, const CountByName& more, size_t most) {
  for (const auto& [name, count] : more) {
    if (const auto known = counts.find(name); known != counts.end()) {
      known->second += count;
    } else if (counts.size() < most) {
      counts.emplace(name, count);
    }
  }
}

}  // namespace

std::string CorpusProblem::text() const {
  return fmt::format("{}:{}: {}", file, line, what);
}

void CorpusCounts::add(const CorpusCounts& later) {
  documents += later.documents;
  empty_documents += later.empty_documents;
  text_bytes += later.text_bytes;
  replaced += later.replaced;
  skipped_lines += later.skipped_lines;
  add_all(skipped, later.skipped, SIZE_MAX);
  add_all(filtered, later.filtered, SIZE_MAX);
  add_all(unjudged, later.unjudged, SIZE_MAX);
  add_all(other_keys, later.other_keys, kMostKeys);
  markers.resize(std::max(markers.size(), later.markers.size()));
  for (size_t i = 0; i < later.markers.size(); ++i) markers[i] += later.markers[i];
  const size_t room = kMostProblems - std::min(problems.size(), kMostProblems);
  const auto begin = later.problems.begin();
  problems.insert(problems.end(), begin, begin + static_cast<std::ptrdiff_t>(std::min(room, later.problems.size())));
}

void DocumentBatch::clear() {
  chunk = {};
  clear_for_reuse(text);
  clear_for_reuse(ends);
  lines = 0;
  counts = {};
  refusal.reset();
}

std::string other_keys(const CorpusOptions& options, const CorpusCounts& counts) {
  if (counts.other_keys.empty()) return "";
  std::vector<std::pair<int64_t, std::string>> keys;
  for (const auto& [key, lines] : counts.other_keys) keys.emplace_back(-lines, key);
  std::sort(keys.begin(), keys.end());
  if (keys.size() > 5) keys.resize(5);
  std::string text = options.key.empty()
                         ? "Of the lines without text, these keys have some:"
                         : fmt::format("Of the lines without text under '{}', these keys have some:", options.key);
  for (const auto& [lines, key] : keys)
    text += fmt::format("{} --key {} ({})", text.back() == ':' ? "" : ",", key, format_counted(-lines, "line"));
  return text + ". ";
}

CorpusReader::CorpusReader(const std::vector<fs::path>& inputs, CorpusOptions options, int files_ahead)
    : options_(std::move(options)),
      markers_(options_.markers),
      inputs_(look_at_inputs(inputs)),
      files_ahead_(static_cast<size_t>(files_ahead)) {
  RL_CHECK(files_ahead, >=, 0);
  RL_CHECK(options_.longest_record, >, 0);
  begin_counts();
  const auto has_keys = [](const CorpusFile& file) { return file.format == RecordFormat::json_lines; };
  if (!options_.key.empty() && std::none_of(inputs_.files.begin(), inputs_.files.end(), has_keys)) {
    throw Error(fmt::format("--key {}: none of the inputs has JSON lines", options_.key),
                "Leave it out: documents of text stand between blank lines.");
  }
  std::vector<CorpusRange> all;
  for (const CorpusFile& file : inputs_.files) {
    all.push_back({all.size(), 0, file.bytes});
    if (options_.filters.any() && file.format == RecordFormat::text) {
      throw Error(fmt::format("'{}' is text: filters judge the metadata in OSCAR's JSON lines", file.name),
                  fmt::format("Leave out {}, or the file.", fmt::join(options_of(options_.filters), " and ")));
    }
  }
  read_only(std::move(all));
}

CorpusReader::~CorpusReader() = default;

void CorpusReader::begin_counts() {
  counts_ = {};
  counts_.markers.resize(options_.markers.size());
  for (const std::string& name : names_of(options_.filters)) counts_.filtered.emplace(name, 0);
}

CorpusCounts CorpusReader::take_counts() {
  CorpusCounts counts = std::move(counts_);
  begin_counts();
  return counts;
}

void CorpusReader::read_only(std::vector<CorpusRange> ranges) {
  RL_CHECK(next_range_, ==, size_t{0});
  RL_CHECK(streams_.size(), ==, size_t{0});
  ranges_ = std::move(ranges);
  bytes_total_ = 0;
  bool known = true;
  for (const CorpusRange& range : ranges_) {
    bytes_total_ += range.end - range.begin;
    known = known && inputs_.files[range.file].path != kStandardInput;
  }
  if (!known) bytes_total_ = 0;
}

std::unique_ptr<ChunkStream> CorpusReader::open(const CorpusRange& range) {
  const CorpusFile& file = inputs_.files[range.file];
  const auto longest = static_cast<size_t>(options_.longest_record);
  if (file.path == kStandardInput)
    return read_ahead(read_chunks(std::move(inputs_.standard_input), file.format, longest), kChunksAhead);
  if (file.compression == Compression::none) {
    return map_chunks(file.path, range.begin, range.end, file.format, longest);
  }
  return read_ahead(read_chunks(decompress(file.compression, read_file(file.path), file.name), file.format, longest),
                    kChunksAhead);
}

// The file's first chunk decides, whatever part of it is read; `first` is that of the range.
std::string CorpusReader::key_of(const CorpusRange& range, std::string_view first) const {
  if (!options_.key.empty()) return options_.key;
  if (range.begin == 0) return document_key(first);
  const CorpusFile& file = inputs_.files[range.file];
  CorpusChunk chunk;
  map_chunks(file.path, 0, file.bytes, file.format, static_cast<size_t>(options_.longest_record))->next(chunk);
  if (chunk.bytes.starts_with(kByteOrderMark)) chunk.bytes.remove_prefix(kByteOrderMark.size());
  return document_key(chunk.bytes);
}

bool CorpusReader::next(DocumentBatch& batch) {
  batch.clear();
  while (true) {
    while (streams_.size() <= files_ahead_ && next_range_ + streams_.size() < ranges_.size())
      streams_.push_back(open(ranges_[next_range_ + streams_.size()]));
    if (streams_.empty()) return false;
    if (streams_.front()->next(batch.chunk)) break;
    streams_.pop_front();
    ++next_range_;
    key_.clear();
  }
  CorpusChunk& chunk = batch.chunk;
  const CorpusRange& range = ranges_[next_range_];
  chunk.range = next_range_;
  chunk.file = range.file;
  if (inputs_.files[range.file].format == RecordFormat::json_lines) {
    if (key_.empty()) {
      // A byte order mark is no part of the first object.
      if (range.begin == 0 && chunk.bytes.starts_with(kByteOrderMark)) chunk.bytes.remove_prefix(kByteOrderMark.size());
      key_ = key_of(range, chunk.bytes);
    }
    chunk.key = key_;
  }
  return true;
}

void CorpusReader::parse(DocumentBatch& batch) const {
  const CorpusChunk& chunk = batch.chunk;
  batch.counts.markers.resize(options_.markers.size());
  if (chunk.too_long) {
    batch.refusal = too_long(1, options_);
  } else {
    const auto source = inputs_.files[chunk.file].format == RecordFormat::json_lines
                            ? read_json_lines(chunk.bytes, chunk.key, options_)
                            : read_text_documents(chunk.bytes, options_);
    batch.text.reserve(chunk.bytes.size());
    try {
      while (source->next(batch.text, batch.counts)) {
        batch.ends.push_back(batch.text.size());
        markers_.count(batch[batch.size() - 1], batch.counts.markers);
      }
    } catch (CorpusRefusal& refusal) {
      batch.refusal = std::move(refusal);
    }
    batch.lines = source->lines();
  }
  batch.chunk.bytes = {};
  batch.chunk.owner.reset();
}

void CorpusReader::add(const DocumentBatch& batch) {
  for (; added_range_ != batch.chunk.range; ++added_range_) {
    bytes_before_ += ranges_[added_range_].end - ranges_[added_range_].begin;
    added_lines_ = 0;
  }
  const CorpusRange& range = ranges_[added_range_];
  const std::string& file = inputs_.files[range.file].name;
  if (batch.refusal) {
    const int64_t line = lines_before(inputs_.files[range.file], range.begin) + added_lines_ + batch.refusal->line;
    throw Error(fmt::format("{}:{}: {}", file, line, batch.refusal->what), batch.refusal->next);
  }
  const size_t before = counts_.problems.size();
  counts_.add(batch.counts);
  for (size_t i = before; i < counts_.problems.size(); ++i) {
    counts_.problems[i].file = file;
    counts_.problems[i].line += added_lines_;
  }
  added_lines_ += batch.lines;
  bytes_done_ = bytes_before_ + batch.chunk.position;
}

void CorpusReader::require_some(const CorpusCounts& counts, int64_t bytes) const {
  if (counts.documents > 0) return;
  const std::vector<CorpusFile>& files = inputs_.files;
  const std::string names = files.size() == 1 ? fmt::format("'{}'", files[0].name)
                                              : fmt::format("'{}' and {} more", files[0].name, files.size() - 1);
  std::string what = fmt::format("no document in {} ({}, {} skipped", names, format_counted(bytes, "byte"),
                                 format_counted(counts.skipped_lines, "line"));
  for (const auto& [name, count] : counts.filtered) what += fmt::format(", {} dropped: {}", count, name);
  if (!counts.problems.empty()) what += "; first problem: " + counts.problems.front().text();
  const std::string keys = other_keys(options_, counts);
  throw Error(
      what + ")",
      keys.empty() ? "A .txt file needs a line of text, a .jsonl file an object with the key that --key names." : keys);
}

}  // namespace ridgeline::data
