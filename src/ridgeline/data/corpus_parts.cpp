#include "ridgeline/data/corpus_parts.h"

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::data {
namespace {

constexpr int64_t kUnpacked = 4;  // bytes of text in one of a compressed file, about

int64_t work_of(const CorpusFile& file, int64_t bytes) {
  return file.compression == Compression::none ? bytes : bytes * kUnpacked;
}

// Where the pieces of a long file begin, 0 among them, and its end.
std::vector<int64_t> cuts_of(const CorpusFile& file, int64_t part_bytes) {
  std::vector<int64_t> cuts = {0};
  if (file.compression == Compression::none && file.bytes > part_bytes + part_bytes / 2) {
    const MappedFile whole(file.path);
    const std::string_view bytes = whole.text().substr(0, static_cast<size_t>(file.bytes));
    while (static_cast<int64_t>(bytes.size()) - cuts.back() > part_bytes + part_bytes / 2) {
      const size_t cut = next_record(bytes, static_cast<size_t>(cuts.back() + part_bytes), file.format);
      if (cut == std::string_view::npos) break;
      cuts.push_back(static_cast<int64_t>(cut));
    }
  }
  cuts.push_back(file.bytes);
  return cuts;
}

}  // namespace

std::vector<CorpusPart> parts_of(const CorpusInputs& inputs, int64_t part_bytes) {
  RL_CHECK(part_bytes, >, 0);
  std::vector<CorpusPart> parts;
  bool open = false;  // whether the last part takes more files
  for (size_t i = 0; i < inputs.files.size(); ++i) {
    const CorpusFile& file = inputs.files[i];
    const std::vector<int64_t> cuts =
        inputs.standard_input ? std::vector<int64_t>{0, file.bytes} : cuts_of(file, part_bytes);
    const bool whole = cuts.size() == 2;
    const bool joins = inputs.standard_input ? open : open && whole && parts.back().bytes + file.bytes <= part_bytes;
    for (size_t k = 0; k + 1 < cuts.size(); ++k) {
      if (!joins) parts.emplace_back();
      const int64_t bytes = cuts[k + 1] - cuts[k];
      parts.back().ranges.push_back({i, cuts[k], cuts[k + 1]});
      parts.back().bytes += bytes;
      parts.back().work += work_of(file, bytes);
    }
    open = whole;
  }
  return parts;
}

std::vector<std::vector<size_t>> share_parts(std::span<const CorpusPart> all, std::span<const size_t> parts,
                                             int count) {
  RL_CHECK(count, >=, 1);
  std::vector<size_t> by_size(parts.begin(), parts.end());
  std::stable_sort(by_size.begin(), by_size.end(), [&](size_t a, size_t b) { return all[a].work > all[b].work; });
  std::vector<std::vector<size_t>> shares(static_cast<size_t>(count));
  std::vector<int64_t> work(shares.size());
  for (const size_t part : by_size) {
    const auto least = static_cast<size_t>(std::min_element(work.begin(), work.end()) - work.begin());
    shares[least].push_back(part);
    work[least] += all[part].work;
  }
  for (std::vector<size_t>& share : shares) std::sort(share.begin(), share.end());
  return shares;
}

}  // namespace ridgeline::data
