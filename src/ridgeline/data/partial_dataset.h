// An unfinished dataset: what `prepare` has done, kept beside its output until all is, so that it can go on after any
// end. Internal to the room.
//
// PREFIX.partial/
//   state          JSON: of what and how a dataset is made; nothing else may go on with it
//   tokens-0000    tokens as .bin will have them: of finished parts, and behind them of one that is not
//   lengths-0000   int32 each: how many tokens their documents have
//   parts-0000     a line for each finished part (part_record.h); what has none does not count
//   tokens-0001 …  the same of other processes: each writes a stream of its own
//   lock-0001 …    of processes but the first, which holds PREFIX.lock, while they write
//   joined         .bin, where it is put together from several streams
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/base/file.h"
#include "ridgeline/data/block_checksums.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/data/part_record.h"

namespace ridgeline::data {

// A finished part and whose stream it lies in.
struct StoredPart {
  int stream = 0;
  PartRecord record;
};

class PartialDataset {
 public:
  PartialDataset(const std::filesystem::path& prefix, TokenType type);

  const std::filesystem::path& folder() const { return folder_; }
  TokenType type() const { return type_; }
  std::filesystem::path file(const char* kind, int stream) const;  // folder/KIND-0003
  std::filesystem::path joined() const { return folder_ / "joined"; }

  // Makes the folder, or takes over what an earlier start has left in it when that was of the same `state`. Error: it
  // was of another (says what differs; not when there is nothing worth keeping, or with `fresh`: then it is removed);
  // what is there is not ours.
  void begin(const nlohmann::json& state, bool fresh);
  // Of a process that is not the first, once that has begun. Error: another state, with what differs, or none.
  void join(const nlohmann::json& state) const;

  // What the lines of all streams say, unverified, in their order.
  std::vector<StoredPart> stored() const;
  // Whether the files hold the part with its checksums.
  bool verify(const StoredPart& part) const;
  void read_lengths(const StoredPart& part, const std::function<void(std::span<const int32_t>)>& visit) const;

  void remove() const;

 private:
  std::filesystem::path folder_;
  TokenType type_;
};

// How documents are cut: into blocks of `tokens` tokens (0: not at all), what does not fill one is dropped.
struct BlockCut {
  int64_t tokens = 0;
  std::vector<int64_t> bytes_of_ids;  // UTF-8 bytes of text that each id stands for
};

// Where one process writes its parts, one after another, behind those that are kept.
class PartialStream {
 public:
  // `kept`: the verified parts of this stream; everything else in it goes.
  PartialStream(const PartialDataset& dataset, int stream, int64_t vocabulary, std::span<const StoredPart> kept,
                BlockCut cut = {});

  // Tokens of the document that is being written. Error: one outside the vocabulary.
  template <typename Id>  // uint16_t or int32_t
  void append(std::span<const Id> tokens);
  // Error: more than 2^31-1 tokens.
  void end_document();
  // The documents since the last part was finished.
  PartRecord finish_part(int64_t part, CorpusCounts counts, int64_t lines);
  // After the last part. Error: what a file system says no earlier than when a file is closed (a full disk, over NFS).
  void close();

  int64_t documents() const { return documents_; }  // of the dataset, since it was opened
  int64_t tokens() const { return tokens_; }

 private:
  template <typename Id>
  void write(std::span<const Id> tokens);
  void write_length(int64_t tokens);
  void write_block();
  void flush();
  void begin_part();

  const PartialDataset& dataset_;
  int64_t vocabulary_;
  int64_t parts_end_;  // of what is written, bytes
  File parts_file_, tokens_file_, lengths_file_;
  int64_t tokens_end_ = 0, lengths_end_ = 0;
  int64_t syncing_end_ = 0;  // up to where the tokens are on their way to the device
  int64_t documents_ = 0, tokens_ = 0;
  PartRecord record_;  // of the part that is being written
  BlockChecksums sums_;
  int64_t length_ = 0;  // of the document that is being written
  const BlockCut cut_;
  std::vector<int32_t> block_;  // of that document: tokens that are in no block yet
  std::vector<std::byte> buffer_;
  std::vector<int32_t> lengths_;
};

}  // namespace ridgeline::data
