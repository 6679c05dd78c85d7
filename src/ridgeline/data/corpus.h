// Corpora: files of documents. They go through three hands, so that all cores take part and the result depends on the
// files alone: `next` cuts the input into batches of whole records, `parse` makes documents of one, on any thread, and
// `add` counts them in their order. How many threads there are, and where batches end, changes nothing.
//
// Inputs are files, folders, patterns and standard input (see corpus_inputs.h), each plain or in gzip, Zstandard or xz
// by its first bytes (see decompress.h). Formats, by name (x.txt, x.jsonl.gz), or by the first line where there is no
// name: a line that begins with {" is JSON.
//
// Text (.txt) as in OSCAR 2019 and 21.09: documents are separated by blank lines. Lines end at \n, \r\n or \r (each
// becomes \n); a line is blank when Python's str.strip() leaves nothing of it; trailing white space of a document is
// dropped, leading is kept; a file's end ends its document. Source: the `oscar` loader of Hugging Face datasets.
//
// JSON lines (.jsonl, .ndjson, .json): one object per line, the document is the string under `key`. White-space-only
// lines are no documents. Of OSCAR 22.01 and 23.01, `filters` judge the member `metadata` (see corpus_filters.h).
//
// Text that comes out is always valid UTF-8: each invalid sequence becomes U+FFFD (as the WHATWG decoder does), also
// lone surrogates in JSON escapes. Numbers in other members may be NaN, Infinity or of any size, as Python's json
// writes and reads them. What was replaced or skipped is counted, and `strict` makes it an Error instead.
//
// Memory is bounded by `longest_record`, not by the files: a reader holds a few megabytes of each open input, or the
// one record that is longer. To parse a line of JSON takes about four times its bytes.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/data/corpus_chunks.h"
#include "ridgeline/data/corpus_filters.h"
#include "ridgeline/data/corpus_inputs.h"
#include "ridgeline/data/marker_counter.h"

namespace ridgeline::data {

struct CorpusOptions {
  // Of JSON lines, of which some must be there; "": "content" for a file whose first object has that and no "text",
  // else "text".
  std::string key;
  bool strict = false;               // refuse invalid UTF-8 and bad JSON lines
  std::vector<std::string> markers;  // strings to count in the documents: names of special tokens
  CorpusFilters filters;
  // Bytes of a document of text, or of a line of JSON: a longer one is an Error.
  int64_t longest_record = int64_t{1} << 30;
};

struct CorpusProblem {
  std::string file;
  int64_t line = 0;  // from 1
  std::string what;
  std::string text() const;  // "file:line: what"
  bool operator==(const CorpusProblem&) const = default;
};

using CountByName = std::map<std::string, int64_t, std::less<>>;

struct CorpusCounts {
  int64_t documents = 0;
  int64_t empty_documents = 0;  // JSON lines whose text is empty; not among `documents`
  int64_t text_bytes = 0;       // of the documents, as UTF-8
  int64_t replaced = 0;         // invalid sequences that became U+FFFD
  int64_t skipped_lines = 0;    // JSON lines without a document: cut, malformed, or without the key
  CountByName skipped;          // the same by reason
  CountByName filtered;         // documents that a filter dropped, by its name; every filter is there
  CountByName unjudged;         // documents that were kept without what a filter looks at, by its name
  // Other keys with text of objects that lack the key (not more than a few): what --key might have meant.
  CountByName other_keys;
  std::vector<int64_t> markers;         // how often each of CorpusOptions::markers stands in the documents
  std::vector<CorpusProblem> problems;  // the first few of what was replaced or skipped

  void add(const CorpusCounts& later);
  bool operator==(const CorpusCounts&) const = default;
};

// Why a corpus is refused. Thrown by a DocumentSource, which does not know the file; CorpusReader makes an Error of it.
struct CorpusRefusal {
  int64_t line = 0;  // of the bytes that the source reads, from 1
  std::string what, next;
};

// Documents of some bytes that hold whole records. Internal interface of CorpusReader, and what the fuzz targets drive.
class DocumentSource {
 public:
  virtual ~DocumentSource() = default;
  // Appends the next document to `text` (which is not cleared); false at the end. CorpusRefusal: `strict` and a
  // problem, or a record that is too long.
  virtual bool next(std::string& text, CorpusCounts& counts) = 0;
  virtual int64_t lines() const = 0;  // read so far
};

// `bytes` and `options` must outlive the source.
std::unique_ptr<DocumentSource> read_text_documents(std::string_view bytes, const CorpusOptions& options);
std::unique_ptr<DocumentSource> read_json_lines(std::string_view bytes, const std::string& key,
                                                const CorpusOptions& options);

// The key of documents in JSON lines, by the first one of `bytes`: what CorpusOptions says where it names none.
std::string document_key(std::string_view bytes);

// "Text stands under other keys: --key content (2000 lines), --key title (3 lines). " of what was skipped, or "".
std::string other_keys(const CorpusOptions& options, const CorpusCounts& counts);

// Several documents in one buffer: the unit of work when a corpus goes through all cores.
struct DocumentBatch {
  CorpusChunk chunk;  // what `next` read; `parse` uses it up
  // What `parse` made of it.
  std::string text;
  std::vector<size_t> ends;  // of each document in `text`
  int64_t lines = 0;         // of the file
  CorpusCounts counts;
  std::optional<CorpusRefusal> refusal;

  void clear();  // keeps the memory of a usual batch
  size_t size() const { return ends.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    return std::string_view(text).substr(begin, ends[i] - begin);
  }
};

// Bytes [begin, end) of a file, which hold whole records.
struct CorpusRange {
  size_t file = 0;  // of CorpusInputs
  int64_t begin = 0, end = 0;
};

class CorpusReader {
 public:
  // Up to `files_ahead` compressed files after the one that is read are decompressed ahead, a few batches of each.
  // Error: no inputs, a file that is missing, that is no text by its content (see file_kind.h), or of a kind that is
  // not known by its name; compressed data that is damaged where it begins.
  CorpusReader(const std::vector<std::filesystem::path>& inputs, CorpusOptions options, int files_ahead = 1);
  ~CorpusReader();

  // From now on only these are read, in this order; before the first batch. They begin and end where next_record() says
  // (see corpus_chunks.h), or the file does; one of a compressed file, or of standard input, is all of it.
  void read_only(std::vector<CorpusRange> ranges);

  // The next batch of the inputs, in order, in the place of what `batch` holds; false after the last. Error: unreadable
  // or damaged files.
  bool next(DocumentBatch& batch);
  // Its documents; on any thread, several at once.
  void parse(DocumentBatch& batch) const;
  // Every parsed batch, in the order of `next`. Error: with `strict` the first problem, and a record longer than
  // `longest_record`, naming file and line.
  void add(const DocumentBatch& batch);

  // Of what was added, since counts were taken.
  const CorpusCounts& counts() const { return counts_; }
  CorpusCounts take_counts();
  int64_t range_lines() const { return added_lines_; }  // of the range that the last batch was of
  int64_t bytes_done() const { return bytes_done_; }
  // Of the ranges, as they lie in their files; 0 when standard input is among them: nobody knows.
  int64_t bytes_total() const { return bytes_total_; }
  const CorpusOptions& options() const { return options_; }
  const CorpusInputs& inputs() const { return inputs_; }
  // After the last batch. Error when there was no document, with what was there instead; of other counts, too.
  void require_some() const { require_some(counts_, bytes_done_); }
  void require_some(const CorpusCounts& counts, int64_t bytes) const;

 private:
  std::unique_ptr<ChunkStream> open(const CorpusRange& range);
  std::string key_of(const CorpusRange& range, std::string_view first) const;
  void begin_counts();
  CorpusOptions options_;
  MarkerCounter markers_;
  CorpusInputs inputs_;
  size_t files_ahead_;
  std::vector<CorpusRange> ranges_;
  // `next`: ranges from next_range_ on, and the key of that one's JSON lines.
  std::deque<std::unique_ptr<ChunkStream>> streams_;
  size_t next_range_ = 0;
  std::string key_;
  // `add`.
  CorpusCounts counts_;
  size_t added_range_ = 0;
  int64_t added_lines_ = 0;  // of that range
  int64_t bytes_before_ = 0, bytes_done_ = 0, bytes_total_ = 0;
};

}  // namespace ridgeline::data
