// Speed of encoding text with GPT-2's tokenizer beside gigatoken's, in interleaved rounds of one run, ids compared.
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
  std::string peer_script = "bench/peers/gigatoken_worker.py";
};

// Rows {english,code,cjk}_{first,warm}_{1,2}: MB/s on one and two threads. first: nothing is remembered of any text,
// and the memory of ids is new; warm: the best of some passes over the same text after it. Error: ids that are not the
// peer's.
std::vector<Row> tokenize_rows(const TokenizeOptions& options);

}  // namespace ridgeline::bench
