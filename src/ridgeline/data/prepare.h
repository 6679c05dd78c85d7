// From text files to a token dataset.
//
// The inputs are cut into parts (corpus_parts.h). What is done of them lies in PREFIX.partial until all is, so that a
// preparation that ended, however that was, goes on behind the last finished part: the same command with the same
// inputs ends with the same bytes, whoever prepared which part when. Several processes may share the parts; each writes
// a file of its own, and then its parts to their places in .bin.
//
// Disk: the dataset, and 4 bytes more for each document; where several processes share it, or one goes on with what
// several did, .bin twice until it is whole. Memory: a few chunks for each thread; of a document of more than
// kLongDocument bytes its text, and the ids of a piece for each thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/data/corpus.h"
#include "ridgeline/data/corpus_parts.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/data/tokenizer.h"

namespace ridgeline::data {

// A longer one is cut over the threads, where its tokenizer says that it may be (Tokenizer::next_cut).
inline constexpr size_t kLongDocument = size_t{4} << 20;

// How several processes prepare one dataset, on a file system that all see. They call `add_up` alike, in one order, and
// while they work at least once in each `round`: where one hangs, the others wait there.
struct PrepareSharing {
  int index = 0, count = 1;
  std::chrono::milliseconds round{60'000};
  // In place: the sums over all processes. It returns when all have called it. Not called where there is one process.
  std::function<void(std::span<int64_t>)> add_up;

  // Likewise; with one process alone nothing is to be done.
  void sum(std::span<int64_t> values) const {
    if (count > 1) add_up(values);
  }
  // Returns when all processes are here.
  void meet() const {
    int64_t one = 1;
    sum({&one, 1});
  }
};

struct PrepareSettings {
  std::vector<std::filesystem::path> inputs;  // files, folders, patterns, "-": see corpus_inputs.h
  std::filesystem::path prefix;               // of the .bin, .idx and .json to write
  std::filesystem::path tokenizer;            // where the tokenizer came from, for the note
  CorpusOptions corpus;
  int threads = 1;              // The result does not depend on it.
  bool end_of_document = true;  // append the tokenizer's end-of-document token to each document
  Specials specials = Specials::as_text;
  // 0: documents stay whole. N: each is cut into blocks of N tokens, and what does not fill one is dropped and counted
  // (note.blocks). No end of document is appended then, since it would mostly be dropped. At least kLeastBlock.
  int64_t block = 0;
  int64_t part_bytes = kPartBytes;  // nor on this
  bool fresh = false;               // remove what an unfinished preparation has left
  PrepareSharing sharing;
  std::function<void(const std::string&)> say;  // for people, at once: what is gone on with, what is kept; may be empty
  // After each part of earlier starts that this process has verified: bytes so far, and of all of them; may be empty.
  std::function<void(int64_t done, int64_t total)> verified;
};

struct PrepareProgress {
  int64_t bytes_done = 0, bytes_total = 0;  // of this process's part of the input files as they are; total 0: not known
  int64_t documents = 0, tokens = 0;
};

struct PrepareResult {
  DatasetNote note;
  CorpusCounts corpus;
  CorpusOptions corpus_options;          // as used: with the names of the tokenizer's special tokens to be counted
  std::vector<std::string> passed_over;  // files of the input folders that are no corpus: "path (why)"
  std::vector<std::string> repeated;     // inputs that are the same file as one before: "path (that one)"
  // lengths[k]: documents of 2^k … 2^(k+1) - 1 tokens, end-of-document included, before they are cut into blocks. The
  // last is not 0.
  std::vector<int64_t> lengths;
  // Of these, what was done by earlier starts.
  int64_t parts = 0, kept_parts = 0, kept_documents = 0, kept_text_bytes = 0;
};

// Reads, tokenizes and writes the dataset; `progress` (may be empty) is called on this thread, several times per
// megabyte. Of several processes the first has the result, the others an empty one. On failure PREFIX.partial is left
// where a part was finished, and not all of the input is one part; nothing else is. Error: as CorpusReader,
// IndexedDatasetWriter; no document in the inputs; a tokenizer without an end-of-document token when one is to be
// appended; files of `prefix` that are inputs, or that `prepare` did not write; PREFIX.partial of other inputs or
// arguments; an input that has changed since it was looked at; standard input among the inputs of several processes; no
// document as long as a block.
PrepareResult prepare_dataset(const Tokenizer& tokenizer, const PrepareSettings& settings,
                              const std::function<void(const PrepareProgress&)>& progress = {});

// UTF-8 bytes of the text of some documents of a dataset: what its tokens stand for, special tokens excluded. With a
// split's loss in nats this gives its bits per byte. Reads all its tokens; exact, since byte-level BPE loses nothing
// (text is counted as it was after normalization).
int64_t text_bytes(const IndexedDataset& dataset, int64_t first_document, int64_t last_document,
                   const Tokenizer& tokenizer);

}  // namespace ridgeline::data
