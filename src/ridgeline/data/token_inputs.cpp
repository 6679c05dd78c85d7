#include "ridgeline/data/token_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/output.h"
#include "ridgeline/data/dataset_output.h"
#include "ridgeline/data/dataset_writer.h"
#include "ridgeline/data/part_record.h"
#include "ridgeline/data/token_file.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

bool is_pair(const fs::path& input) {
  std::error_code code;
  return fs::is_regular_file(with_suffix(dataset_prefix(input), ".idx"), code);
}

// Of a file of llm.c.
std::optional<TokenFile> llmc_file(const fs::path& input) {
  std::error_code code;
  if (!fs::is_regular_file(input, code)) return std::nullopt;
  const auto tokens = token_file(start_of(input), static_cast<int64_t>(fs::file_size(input)), input);
  return tokens && tokens->separator >= 0 ? tokens : std::nullopt;
}

// Only what was not asked for makes no sense here.
void require_no_text_options(const PrepareSettings& settings) {
  const CorpusOptions& corpus = settings.corpus;
  const char* option = !corpus.key.empty()                        ? "--key"
                       : corpus.strict                            ? "--strict"
                       : corpus.filters.any()                     ? "filters of metadata"
                       : settings.specials == Specials::recognise ? "--specials"
                       : !settings.end_of_document                ? "--no-eod"
                       : settings.block > 0                       ? "--blocks"
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
    for (const fs::path& input : settings.inputs)
      now_.bytes_total +=
          static_cast<int64_t>(fs::file_size(is_pair(input) ? with_suffix(dataset_prefix(input), ".bin") : input));
  }

  PrepareResult run() {
    for (const fs::path& input : settings_.inputs) {
      if (is_pair(input)) {
        flush();
        add_pair(input);
      } else {
        add_llmc(input);
      }
    }
    flush();
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
    std::vector<int32_t> document;
    int64_t since = 0;
    for (int64_t d = 0; d < dataset->documents(); ++d) {
      document.resize(static_cast<size_t>(dataset->length(d)));
      dataset->read(dataset->begin(d), document, tokenizer_.vocab_size());
      add(document);
      since += dataset->length(d) * size_of(dataset->token_type());
      if (since < kReport && d + 1 < dataset->documents()) continue;
      advance(since);
      since = 0;
    }
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

  void add_llmc(const fs::path& input) {
    const TokenFile tokens = *llmc_file(input);
    if (!tokens.problem.empty())
      throw Error(fmt::format("'{}', {}: {}", input.string(), tokens.kind, tokens.problem),
                  "Get the file again: what is there is not whole.");
    if (tokens.separator >= tokenizer_.vocab_size() || !tokenizer_.is_special(tokens.separator)) {
      throw Error(fmt::format("'{}' is {}, and in tokenizer '{}' id {} ends or begins no document", input.string(),
                              tokens.kind, settings_.tokenizer.string(), tokens.separator),
                  "Name the tokenizer of its ids: GPT-2's, or Llama 3's.");
    }
    const MappedFile file(input, MappedFile::Access::sequential);
    const std::byte* from = file.bytes().data() + tokens.begin;
    for (int64_t i = 0, reported = 0; i < tokens.count; ++i, from += tokens.item_bytes) {
      uint32_t id = 0;
      std::memcpy(&id, from, static_cast<size_t>(tokens.item_bytes));
      if (id >= static_cast<uint32_t>(tokenizer_.vocab_size())) {
        throw Error(fmt::format("'{}': token id {} at position {} is outside the vocabulary of {}", input.string(), id,
                                i, tokenizer_.vocab_size()),
                    "Name the tokenizer of its ids.");
      }
      if (static_cast<int32_t>(id) == tokens.separator) flush();
      waiting_.push_back(static_cast<int32_t>(id));
      if ((i + 1) * tokens.item_bytes - reported < kReport && i + 1 < tokens.count) continue;
      advance((i + 1) * tokens.item_bytes - reported);
      reported = (i + 1) * tokens.item_bytes;
    }
    advance(tokens.begin);
  }

  // The document that may go on in the next file.
  void flush() {
    if (!waiting_.empty()) add(waiting_);
    waiting_.clear();
  }

  static constexpr int64_t kReport = int64_t{1} << 20;
  const Tokenizer& tokenizer_;
  const PrepareSettings& settings_;
  const std::function<void(const PrepareProgress&)>& progress_;
  int32_t end_;
  std::vector<int64_t> text_bytes_;  // by id
  IndexedDatasetWriter writer_;
  std::vector<int32_t> waiting_;
  int64_t bytes_ = 0;
  bool all_end_ = true;
  PrepareProgress now_;
  PrepareResult result_;
};

}  // namespace

bool are_token_inputs(std::span<const fs::path> inputs) {
  const fs::path* text = nullptr;
  const fs::path* tokens = nullptr;
  for (const fs::path& input : inputs) (is_pair(input) || llmc_file(input) ? tokens : text) = &input;
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
