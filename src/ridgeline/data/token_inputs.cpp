#include "ridgeline/data/token_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/dataset_output.h"
#include "ridgeline/data/dataset_writer.h"
#include "ridgeline/data/llmc_tokens.h"
#include "ridgeline/data/part_record.h"
#include "ridgeline/data/token_file.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

bool is_pair(const fs::path& input) {
  std::error_code code;
  const fs::path prefix = dataset_prefix(input);
  // A text, though the dataset that was once made of it has its name: web.txt, web.txt.bin, web.txt.idx.
  if (prefix == input && fs::is_regular_file(input, code)) return false;
  return fs::is_regular_file(with_suffix(prefix, ".idx"), code);
}

// The file that holds an input's tokens.
fs::path tokens_of(const fs::path& input) {
  return is_pair(input) ? with_suffix(dataset_prefix(input), ".bin") : input;
}

// Only what was not asked for makes no sense here.
void require_no_text_options(const PrepareSettings& settings) {
  const CorpusOptions& corpus = settings.corpus;
  const char* option = !corpus.key.empty()                                       ? "--key"
                       : corpus.strict                                           ? "--strict"
                       : corpus.filters.any()                                    ? "filters of metadata"
                       : settings.specials == Specials::recognise                ? "--specials"
                       : !settings.end_of_document                               ? "--no-eod"
                       : settings.block > 0                                      ? "--blocks"
                       : corpus.longest_record != CorpusOptions().longest_record ? "--max-document"
                                                                                 : nullptr;
  if (option == nullptr) return;
  throw Error(fmt::format("{}: the inputs are token ids, which are taken as they are", option),
              "Leave it out, or name files of text.");
}

class TokenJoin {
 public:
  TokenJoin(const Tokenizer& tokenizer, const PrepareSettings& settings,
            const std::function<void(const PrepareProgress&)>& progress)
      : tokenizer_(tokenizer),
        settings_(settings),
        progress_(progress),
        end_(tokenizer.end_of_document().value_or(-1)),
        text_bytes_(tokenizer.text_bytes_of_ids()),
        writer_(settings.prefix, tokenizer.vocab_size()) {
    std::vector<fs::path> files;
    for (const fs::path& input : settings.inputs) files.push_back(tokens_of(input));
    for (const fs::path& file : files) now_.bytes_total += static_cast<int64_t>(fs::file_size(file));
    result_.repeated = repeated_files(files);
  }

  PrepareResult run() {
    std::vector<fs::path> of_llmc;  // what goes on in the next file
    for (const fs::path& input : settings_.inputs) {
      if (!is_pair(input)) {
        of_llmc.push_back(input);
        continue;
      }
      add_llmc(of_llmc);
      of_llmc.clear();
      add_pair(input);
    }
    add_llmc(of_llmc);
    result_.parts = 1;
    result_.corpus.documents = writer_.documents();
    result_.corpus.text_bytes = bytes_;
    result_.note = {.tokens = writer_.tokens(),
                    .documents = writer_.documents(),
                    .text_bytes = bytes_,
                    .vocabulary = tokenizer_.vocab_size(),
                    .end_of_document = all_end_ ? end_ : -1,
                    .tokenizer_hash = tokenizer_.hash(),
                    .tokenizer = settings_.tokenizer.string()};
    writer_.finish(result_.note);
    return std::move(result_);
  }

 private:
  void add(std::span<const int32_t> document) {
    writer_.add_document(document);
    for (const int32_t token : document) bytes_ += text_bytes_[static_cast<size_t>(token)];
    all_end_ = all_end_ && end_ >= 0 && !document.empty() && document.back() == end_;
    add_length(result_.lengths, std::ssize(document));
  }

  void advance(int64_t bytes) {
    now_.bytes_done += bytes;
    now_.documents = writer_.documents();
    now_.tokens = writer_.tokens();
    if (progress_) progress_(now_);
  }

  void add_pair(const fs::path& input) {
    const auto dataset = IndexedDataset::open_repairing(input);
    if (dataset->block() > 0) {
      throw Error(
          fmt::format("'{}' holds blocks of {} tokens, which would become documents", input.string(), dataset->block()),
          "Name several datasets in data.train, or prepare all of the text with --blocks.");
    }
    dataset->require_tokenizer(tokenizer_.hash(), tokenizer_.vocab_size(), tokenizer_.end_of_document());
    add_documents(*dataset);
    if (!dataset->repaired()) return;
    if (all_end_) {
      if (settings_.say)
        settings_.say(fmt::format("'{}': the lengths of its documents omitted their last token; they are repaired",
                                  dataset->prefix().string()));
      return;
    }
    throw Error(fmt::format("'{}': its index omits one token for each document, but they do not all end with this "
                            "tokenizer's end-of-document token ({})",
                            dataset->prefix().string(), end_ < 0 ? "it names none" : fmt::format("id {}", end_)),
                "Name the tokenizer that it was made with, or prepare the text itself.");
  }

  void add_llmc(std::span<const fs::path> files) {
    for (const fs::path& file : files) {
      const std::optional<LlmcFile> header = llmc_file(file);
      if (!header)
        throw Error(fmt::format("'{}' is no token file of llm.c", file.string()),
                    "It was one: wait until it is whole.");
      const TokenFile& tokens = header->tokens;
      if (tokens.separator < tokenizer_.vocab_size() && tokenizer_.is_special(tokens.separator)) continue;
      throw Error(fmt::format("'{}' is {}, and in tokenizer '{}' id {} ends or begins no document", file.string(),
                              tokens.kind, settings_.tokenizer.string(), tokens.separator),
                  "Name the tokenizer of its ids: GPT-2's, or Llama 3's.");
    }
    if (files.empty()) return;
    const auto dataset = IndexedDataset::of_llmc(files.front(), files);
    add_documents(*dataset);
    int64_t headers = -dataset->bytes();
    for (const fs::path& file : dataset->files()) headers += static_cast<int64_t>(fs::file_size(file));
    advance(headers);
  }

  void add_documents(const IndexedDataset& dataset) {
    std::vector<int32_t> document;
    int64_t since = 0;
    for (int64_t d = 0; d < dataset.documents(); ++d) {
      document.resize(static_cast<size_t>(dataset.length(d)));
      dataset.read(dataset.begin(d), document, tokenizer_.vocab_size());
      add(document);
      since += dataset.length(d) * size_of(dataset.token_type());
      if (since < kReport && d + 1 < dataset.documents()) continue;
      advance(since);
      since = 0;
    }
  }

  static constexpr int64_t kReport = int64_t{1} << 20;
  const Tokenizer& tokenizer_;
  const PrepareSettings& settings_;
  const std::function<void(const PrepareProgress&)>& progress_;
  int32_t end_;
  std::vector<int64_t> text_bytes_;  // by id
  IndexedDatasetWriter writer_;
  int64_t bytes_ = 0;
  bool all_end_ = true;
  PrepareProgress now_;
  PrepareResult result_;
};

}  // namespace

bool are_token_inputs(std::span<const fs::path> inputs) {
  const fs::path* text = nullptr;
  const fs::path* tokens = nullptr;
  for (const fs::path& input : inputs) (is_pair(input) || is_llmc_file(input) ? tokens : text) = &input;
  if (tokens == nullptr) return false;
  if (text == nullptr) return true;
  throw Error(fmt::format("'{}' holds token ids, and '{}' does not", tokens->string(), text->string()),
              "Prepare the text first, and then the dataset of both.");
}

PrepareResult prepare_from_tokens(const Tokenizer& tokenizer, const PrepareSettings& settings,
                                  const std::function<void(const PrepareProgress&)>& progress) {
  require_no_text_options(settings);
  if (settings.sharing.count > 1)
    throw Error("token ids are joined by one process, not by several",
                "Start it without mpirun, srun or --rendezvous.");
  std::vector<fs::path> files;
  for (const fs::path& input : settings.inputs) {
    files.push_back(input);
    for (const char* suffix : {".bin", ".idx", ".json"}) files.push_back(with_suffix(dataset_prefix(input), suffix));
  }
  require_replaceable_dataset(settings.prefix, files);
  return TokenJoin(tokenizer, settings, progress).run();
}

}  // namespace ridgeline::data
