// Speed of encoding text with GPT-2's tokenizer beside gigatoken, tiktoken and Hugging Face's tokenizers, in
// interleaved rounds of one run, ids compared.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "bench/report.h"

namespace ridgeline::bench {

struct TokenizeOptions {
  std::filesystem::path tokenizer = "tests/data/gpt2_tokenizer";
  std::filesystem::path corpora;      // as text_corpora() has it
  int64_t bytes = int64_t{16} << 20;  // of each corpus
  int rounds = 5;
  std::string peers;  // environment made by bench/peers/setup_tokenizers.sh; "" for none
  std::string peer_script = "bench/peers/tokenizer_worker.py";
};

// Rows {english,code,cjk}_{first,warm}_{1,2}: MB/s on one and two threads. Ours are ids as `prepare` writes them, of
// two bytes for GPT-2; gigatoken 0.10 gives four bytes each. first: nothing is remembered of any text, and the memory
// of ids is new (an Encoder asks for huge pages, gigatoken takes small ones for a string); our encoders are made in it,
// too. warm: the best of some passes over the same text after it. Their ratio is to gigatoken. Rows …_beside_tiktoken
// and …_beside_tokenizers: ours and that peer's on the first 2 MiB of each corpus. A peer that the environment does not
// have is said on stderr, and has no rows. Error: ids that are not the peer's.
std::vector<Row> tokenize_rows(const TokenizeOptions& options);

}  // namespace ridgeline::bench
