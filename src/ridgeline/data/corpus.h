// Corpora: files of documents, read one document at a time.
//
// .txt as in OSCAR 2019: documents are separated by blank lines. Lines end at \n, \r\n or \r (each becomes \n); a line
// is blank when Python's str.strip() leaves nothing of it; trailing white space of a document is dropped, leading is
// kept; a file's end ends its document. Source: the `oscar` loader of Hugging Face datasets. .jsonl (also .ndjson,
// .json): one object per line, the document is the string under `key`. White-space-only lines are no documents.
//
// Text that comes out is always valid UTF-8: each invalid sequence becomes U+FFFD (as the WHATWG decoder does), also
// lone surrogates in JSON escapes. Numbers in other members may be NaN, Infinity or of any size, as Python's json
// writes and reads them. What was replaced or skipped is counted, and `strict` makes it an Error instead.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/data/marker_counter.h"

namespace ridgeline::data {

struct CorpusOptions {
  std::string key = "text";          // of .jsonl
  bool strict = false;               // refuse invalid UTF-8 and bad JSON lines
  std::vector<std::string> markers;  // strings to count in the documents: names of special tokens
};

struct CorpusCounts {
  int64_t documents = 0;
  int64_t empty_documents = 0;  // JSON lines whose text is empty; not among `documents`
  int64_t text_bytes = 0;       // of the documents, as UTF-8
  int64_t replaced = 0;         // invalid sequences that became U+FFFD
  int64_t skipped_lines = 0;    // JSON lines without a document: cut, malformed, or without the key
  // Other keys with text of objects that lack the key (not more than a few): what --key might have meant.
  std::map<std::string, int64_t, std::less<>> other_keys;
  std::vector<int64_t> markers;  // how often each of CorpusOptions::markers stands in the documents
  // The first few of both, as "file:line: what".
  std::vector<std::string> problems;
};

// Where documents come from, one file. Internal interface of CorpusReader, and what the fuzz targets drive.
class DocumentSource {
 public:
  virtual ~DocumentSource() = default;
  // Appends the next document to `text` (which is not cleared); false at the end.
  virtual bool next(std::string& text, CorpusCounts& counts) = 0;
  virtual int64_t position() const = 0;  // bytes consumed
};

// `bytes` must outlive the source; `name` is for messages.
std::unique_ptr<DocumentSource> read_text_documents(std::string_view bytes, std::string name,
                                                    const CorpusOptions& options);
std::unique_ptr<DocumentSource> read_json_lines(std::string_view bytes, std::string name, const CorpusOptions& options);

// "Text stands under other keys: --key content (2000 lines), --key title (3 lines). " of what was skipped, or "".
std::string other_keys(const CorpusOptions& options, const CorpusCounts& counts);

class CorpusReader {
 public:
  // Error: no inputs, a file that is missing, that is no text by its content (see file_kind.h), or of a kind that is
  // not known by its name.
  CorpusReader(std::vector<std::filesystem::path> inputs, CorpusOptions options);
  ~CorpusReader();

  // Appends the next document to `text`; false after the last of the last file. With `strict`, Error on the first
  // problem, naming file and line.
  bool next(std::string& text);
  const CorpusCounts& counts() const { return counts_; }
  int64_t bytes_done() const;
  int64_t bytes_total() const { return bytes_total_; }
  // After the last document. Error when there was none, with what was there instead.
  void require_some() const;

 private:
  struct OpenFile;
  std::vector<std::filesystem::path> inputs_;
  CorpusOptions options_;
  MarkerCounter markers_;
  CorpusCounts counts_;
  std::unique_ptr<OpenFile> file_;
  size_t next_input_ = 0;
  int64_t bytes_before_ = 0, bytes_total_ = 0;
};

}  // namespace ridgeline::data
