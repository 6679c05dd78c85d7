// Which documents train, validate and test, by the shares of a split string. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace ridgeline::data {

// Documents [first, last) of a dataset.
struct DocumentRange {
  int64_t first = 0, last = 0;
  bool empty() const { return first >= last; }
  bool operator==(const DocumentRange&) const = default;
};

// How shares become whole documents. Sources: Megatron-LM, core/datasets/blended_megatron_dataset_builder.py with
// blended_megatron_dataset_config.py; and before November 2023, data/dataset_utils.py, as Megatron-DeepSpeed and
// GPT-NeoX have it. Roundings are to the nearest, half to even.
enum class SplitRule : uint8_t {
  cumulative,  // bound i = the sum of the first i shares x documents, rounded; a share of 0 is an empty part
  per_share    // each share x documents rounded by itself; what is too much or too little in the sum goes off every
               // bound but 0
};
// "cumulative", "per_share", in the order of the rules.
std::span<const std::string_view> words_of(SplitRule rule);
// Error naming `key` for another word.
SplitRule split_rule_of_name(std::string_view word, std::string_view key);

// Train, validation and test documents for "969,30,1", "98,2,0", "0.9, 0.05, 0.05", "90/10", "98 2 0", "1"; what is
// missing is 0. Error naming data.split: not one to
// three numbers >= 0, or all 0.
std::array<DocumentRange, 3> split_documents(std::string_view split, SplitRule rule, int64_t documents);

// "60, 6 and 1": how many documents are in each part.
std::string counts_text(const std::array<DocumentRange, 3>& parts);

}  // namespace ridgeline::data
