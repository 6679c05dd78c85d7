// From text files to a token dataset.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "ridgeline/data/corpus.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/data/tokenizer.h"

namespace ridgeline::data {

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
};

struct PrepareProgress {
  int64_t bytes_done = 0, bytes_total = 0;  // of the input files as they are; total 0: not known
  int64_t documents = 0, tokens = 0;
};

struct PrepareResult {
  DatasetNote note;
  CorpusCounts corpus;
  CorpusOptions corpus_options;          // as used: with the names of the tokenizer's special tokens to be counted
  std::vector<std::string> passed_over;  // files of the input folders that are no corpus: "path (why)"
  // lengths[k]: documents of 2^k … 2^(k+1) - 1 tokens, end-of-document included, before they are cut into blocks. The
  // last is not 0.
  std::vector<int64_t> lengths;
};

// Reads, tokenizes and writes the dataset; `progress` (may be empty) is called on this thread, about once per megabyte.
// Nothing is left behind on failure. Error: as CorpusReader, IndexedDatasetWriter; no document in the inputs; a
// tokenizer without an end-of-document token when one is to be appended; files of `prefix` that are inputs, or that
// `prepare` did not write; no document as long as a block.
PrepareResult prepare_dataset(const Tokenizer& tokenizer, const PrepareSettings& settings,
                              const std::function<void(const PrepareProgress&)>& progress = {});

// UTF-8 bytes of the text of some documents of a dataset: what its tokens stand for, special tokens excluded. With a
// split's loss in nats this gives its bits per byte. Reads all its tokens; exact, since byte-level BPE loses nothing
// (text is counted as it was after normalization).
int64_t text_bytes(const IndexedDataset& dataset, int64_t first_document, int64_t last_document,
                   const Tokenizer& tokenizer);

}  // namespace ridgeline::data
