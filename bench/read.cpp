#include "bench/read.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "bench/scratch.h"
#include "ridgeline/base/error.h"
#include "ridgeline/data/corpus.h"
#include "ridgeline/data/corpus_inputs.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/data/ordered_pipeline.h"
#include "ridgeline/data/prepare.h"
#include "ridgeline/data/tokenizer.h"

namespace ridgeline::bench {
namespace {

using data::Compression;
using data::CorpusFile;

double since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int64_t unpack(const CorpusFile& file) {
  const auto source = data::decompress(file.compression, data::read_file(file.path), file.name);
  std::string block(data::kChunkBytes, '\0');
  int64_t bytes = 0;
  for (size_t got = block.size(); got == block.size();) bytes += static_cast<int64_t>(got = source->read(block));
  return bytes;
}

// visit(batch) for each batch of its documents, in order.
template <typename Visit>
void read_documents(const CorpusFile& file, int threads, Visit visit) {
  data::CorpusReader reader({file.path}, {}, 0);
  data::ordered_pipeline<data::DocumentBatch>(
      threads, [&](data::DocumentBatch& batch) { return reader.next(batch); },
      [](const data::DocumentBatch& batch) { return batch.chunk.bytes.size(); },
      [&](int, data::DocumentBatch& batch) { reader.parse(batch); },
      [&](const data::DocumentBatch& batch) {
        reader.add(batch);
        visit(batch);
      });
  reader.require_some();
}

// All documents of a file, as they are encoded: some at a time.
std::vector<data::DocumentBatch> documents_of(const CorpusFile& file, int threads) {
  std::vector<data::DocumentBatch> all;
  read_documents(file, threads, [&](const data::DocumentBatch& batch) {
    all.emplace_back().text = batch.text;
    all.back().ends = batch.ends;
  });
  return all;
}

// As `prepare` does, to ids as a dataset keeps them.
template <typename Id>
void encode_as(const data::Tokenizer& tokenizer, const std::vector<data::DocumentBatch>& batches, int threads) {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    data::EncoderOf<Id> encoder(tokenizer);
    std::vector<Id> ids;
    for (size_t i = next++; i < batches.size(); i = next++) {
      ids.clear();
      for (size_t k = 0; k < batches[i].size(); ++k) encoder.encode(batches[i][k], ids);
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

void encode(const data::Tokenizer& tokenizer, const std::vector<data::DocumentBatch>& batches, int threads) {
  data::with_token_id(tokenizer.vocab_size(), [&](auto id) { encode_as<decltype(id)>(tokenizer, batches, threads); });
}

// The dataset of one file.
void prepare(const data::Tokenizer& tokenizer, const CorpusFile& file, const Scratch& scratch, int threads) {
  data::PrepareSettings settings;
  settings.inputs = {file.path};
  settings.prefix = scratch / "dataset";
  settings.threads = threads;
  data::prepare_dataset(tokenizer, settings);
}

std::vector<std::string> tools_for(Compression compression) {
  switch (compression) {
    case Compression::none:
      return {};
    case Compression::gzip:
      return {"igzip", "pigz", "gzip"};
    case Compression::zstandard:
      return {"zstd"};
    case Compression::xz:
      return {"xz"};
  }
  RL_NO_CASE(compression);
}

// `TOOL -dc < FILE > /dev/null`; empty when it is not installed, or fails.
std::optional<double> tool_seconds(const std::string& tool, const std::filesystem::path& path) {
  const auto begin = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  if (child < 0) return std::nullopt;
  if (child == 0) {
    const int input = ::open(path.c_str(), O_RDONLY), nothing = ::open("/dev/null", O_WRONLY);
    ::dup2(input, STDIN_FILENO);
    ::dup2(nothing, STDOUT_FILENO);
    ::dup2(nothing, STDERR_FILENO);
    ::execlp(tool.c_str(), tool.c_str(), "-dc", static_cast<char*>(nullptr));
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? std::optional(since(begin)) : std::nullopt;
}

// Seconds, round by round.
struct Stages {
  std::vector<double> unpacking, reading, encoding, preparing;
  std::map<std::string, std::vector<double>> tools;
  int64_t bytes = 0, text_bytes = 0;
};

Stages measure(const CorpusFile& file, const data::Tokenizer& tokenizer, const Scratch& scratch,
               const ReadOptions& options) {
  const int threads = options.threads;
  Stages stages;
  const std::vector<data::DocumentBatch> documents = documents_of(file, threads);
  for (const data::DocumentBatch& batch : documents) stages.text_bytes += std::ssize(batch.text);
  bool counts = false;
  const auto time = [&](std::vector<double>& seconds, const auto& stage) {
    const auto begin = std::chrono::steady_clock::now();
    stage();
    if (counts) seconds.push_back(since(begin));
  };
  for (int round = -1; round < options.rounds; ++round) {
    counts = round >= 0;
    time(stages.unpacking, [&] { stages.bytes = unpack(file); });
    time(stages.reading, [&] { read_documents(file, threads, [](const data::DocumentBatch&) {}); });
    time(stages.encoding, [&] { encode(tokenizer, documents, threads); });
    time(stages.preparing, [&] { prepare(tokenizer, file, scratch, threads); });
    for (const std::string& tool : tools_for(file.compression)) {
      if (const auto seconds = tool_seconds(tool, file.path); seconds && counts) stages.tools[tool].push_back(*seconds);
    }
  }
  return stages;
}

void add_rows(const std::string& name, const Stages& stages, int threads, std::vector<Row>& rows) {
  const Statistics unpacked = statistics(stages.unpacking), read = statistics(stages.reading),
                   encoded = statistics(stages.encoding), prepared = statistics(stages.preparing);
  const double megabytes = 1e-6 * static_cast<double>(stages.bytes);
  const double text_megabytes = 1e-6 * static_cast<double>(stages.text_bytes);
  const Row row{
      .name = "unpack_" + name, .value = megabytes / unpacked.median, .unit = "MB/s", .spread = unpacked.spread};
  if (stages.tools.empty()) rows.push_back(row);
  for (const auto& [tool, seconds] : stages.tools) {
    rows.push_back(row);
    rows.back().peer = tool + " -dc";
    rows.back().ratio = statistics(seconds).median / unpacked.median;
  }
  rows.push_back({.name = fmt::format("read_{}_{}", name, threads),
                  .value = megabytes / read.median,
                  .unit = "MB/s",
                  .floor = row.value,
                  .fraction = unpacked.median / read.median,
                  .spread = read.spread});
  rows.push_back({.name = fmt::format("encode_{}_{}", name, threads),
                  .value = text_megabytes / encoded.median,
                  .unit = "MB/s",
                  .spread = encoded.spread});
  const double slower = std::max(unpacked.median, encoded.median);
  for (const auto& [peer, seconds] :
       {std::pair{"unpacking alone", unpacked.median}, {"encoding alone", encoded.median}})
    rows.push_back({.name = fmt::format("prepare_{}_{}", name, threads),
                    .value = text_megabytes / prepared.median,
                    .unit = "MB/s",
                    .floor = text_megabytes / slower,
                    .fraction = slower / prepared.median,
                    .spread = prepared.spread,
                    .peer = peer,
                    .ratio = seconds / prepared.median});
}

}  // namespace

std::vector<Row> read_rows(const ReadOptions& options) {
  const data::CorpusInputs looked_at = data::look_at_inputs(options.inputs);
  if (looked_at.standard_input) throw Error("standard input cannot be read twice", "Name files.");
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.tokenizer);
  const Scratch scratch(options.folder);
  std::vector<Row> rows;
  for (const CorpusFile& file : looked_at.files)
    add_rows(file.path.filename().string(), measure(file, tokenizer, scratch, options), options.threads, rows);
  return rows;
}

}  // namespace ridgeline::bench
