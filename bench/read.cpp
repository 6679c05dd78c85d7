#include "bench/read.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>

#include "ridgeline/base/error.h"
#include "ridgeline/data/corpus.h"
#include "ridgeline/data/corpus_inputs.h"
#include "ridgeline/data/ordered_pipeline.h"

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

void read_documents(const CorpusFile& file, int threads) {
  data::CorpusReader reader({file.path}, {}, 0);
  data::ordered_pipeline<data::DocumentBatch>(
      threads, [&](data::DocumentBatch& batch) { return reader.next(batch); },
      [](const data::DocumentBatch& batch) { return batch.chunk.bytes.size(); },
      [&](int, data::DocumentBatch& batch) { reader.parse(batch); },
      [&](const data::DocumentBatch& batch) { reader.add(batch); });
  reader.require_some();
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

void add_rows(const CorpusFile& file, int threads, int rounds, std::vector<Row>& rows) {
  std::vector<double> unpacking, reading;
  std::map<std::string, std::vector<double>> tools;
  int64_t bytes = 0;
  for (int round = -1; round < rounds; ++round) {
    auto begin = std::chrono::steady_clock::now();
    bytes = unpack(file);
    if (round >= 0) unpacking.push_back(since(begin));
    begin = std::chrono::steady_clock::now();
    read_documents(file, threads);
    if (round >= 0) reading.push_back(since(begin));
    for (const std::string& tool : tools_for(file.compression)) {
      if (const auto seconds = tool_seconds(tool, file.path); seconds && round >= 0) tools[tool].push_back(*seconds);
    }
  }
  const std::string name = file.path.filename().string();
  const double megabytes = 1e-6 * static_cast<double>(bytes);
  const Statistics unpacked = statistics(unpacking), read = statistics(reading);
  const Row row{
      .name = "unpack_" + name, .value = megabytes / unpacked.median, .unit = "MB/s", .spread = unpacked.spread};
  if (tools.empty()) rows.push_back(row);
  for (const auto& [tool, seconds] : tools) {
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
}

}  // namespace

std::vector<Row> read_rows(const std::vector<std::filesystem::path>& inputs, int threads, int rounds) {
  const data::CorpusInputs looked_at = data::look_at_inputs(inputs);
  if (looked_at.standard_input) throw Error("standard input cannot be read twice", "Name files.");
  std::vector<Row> rows;
  for (const CorpusFile& file : looked_at.files) add_rows(file, threads, rounds, rows);
  return rows;
}

}  // namespace ridgeline::bench
