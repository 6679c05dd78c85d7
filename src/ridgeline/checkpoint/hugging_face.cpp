#include "ridgeline/checkpoint/hugging_face.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/json.h"
#include "ridgeline/checkpoint/convert.h"
#include "ridgeline/checkpoint/strided_copy.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;

std::string_view without_prefix(std::string_view name, std::string_view prefix) {
  return !prefix.empty() && name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

// `*` in the pattern stands for any text.
bool glob(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  return pattern.substr(p).find_first_not_of('*') == std::string_view::npos;
}

// " missing: a, b and 7 more;"
std::string listed(std::string_view title, const std::vector<std::string>& names) {
  if (names.empty()) return {};
  constexpr size_t kShown = 8;
  const size_t shown = std::min(kShown, names.size());
  std::string text = fmt::format("\n    {}: {}", title, fmt::join(names.begin(), names.begin() + shown, ", "));
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

bool is_float(const std::optional<DType>& dtype) {
  return dtype.has_value() && convertible(*dtype, DType::f32);
}

// Their tensors by name as in the table, without prefix; two that mean the same one are ambiguous.
std::map<std::string_view, TensorFolder::Place> names_in(const TensorFolder& files, const NameTable& table) {
  std::map<std::string_view, TensorFolder::Place> found;
  for (const TensorFolder::Place& place : files.tensors()) {
    std::string_view name = without_prefix(place.tensor->name, table.optional_prefix);
    for (const auto& [alias, meant] : table.aliases) {
      if (name == alias) name = without_prefix(meant, table.optional_prefix);
    }
    const auto [other, inserted] = found.emplace(name, place);
    if (!inserted) {
      throw Error(fmt::format("'{}' has both '{}' and '{}'", place.file->path().string(), place.tensor->name,
                              other->second.tensor->name),
                  "Remove one of the two.");
    }
  }
  return found;
}

// Whether two stored tensors hold the same numbers.
bool equal(const TensorFolder::Place& a, const TensorFolder::Place& b) {
  if (a.tensor->shape != b.tensor->shape) return false;
  const std::span<const std::byte> left = a.file->bytes(*a.tensor), right = b.file->bytes(*b.tensor);
  if (a.tensor->type == b.tensor->type) return std::equal(left.begin(), left.end(), right.begin(), right.end());
  if (!is_float(a.tensor->dtype) || !is_float(b.tensor->dtype)) return false;
  constexpr int64_t kBand = 1 << 16;
  std::vector<double> values(2 * kBand);
  const DType one = *a.tensor->dtype, two = *b.tensor->dtype;
  for (int64_t first = 0; first < a.tensor->count; first += kBand) {
    const int64_t count = std::min(kBand, a.tensor->count - first);
    double* const others = values.data() + kBand;
    convert(ConstRef(left.data() + first * size_of(one), one), Ref(values.data(), DType::f64), count);
    convert(ConstRef(right.data() + first * size_of(two), two), Ref(others, DType::f64), count);
    if (!std::equal(others, others + count, values.data())) return false;
  }
  return true;
}

}  // namespace

TensorFolder open_weights(const fs::path& folder_or_file) {
  return fs::is_directory(folder_or_file) ? TensorFolder::open_hugging_face(folder_or_file)
                                          : TensorFolder::open_file(folder_or_file);
}

std::optional<std::pair<std::string, std::string>> differing_pair(const TensorFolder& files, const NameTable& table) {
  const std::map<std::string_view, TensorFolder::Place> found = names_in(files, table);
  for (const auto& [name, other] : table.shared) {
    const auto a = found.find(without_prefix(name, table.optional_prefix));
    const auto b = found.find(without_prefix(other, table.optional_prefix));
    if (a == found.end() || b == found.end() || equal(a->second, b->second)) continue;
    return std::pair(a->second.tensor->name, b->second.tensor->name);
  }
  return std::nullopt;
}

HuggingFaceModel::HuggingFaceModel(const fs::path& folder_or_file, NameTable table)
    : HuggingFaceModel(open_weights(folder_or_file), std::move(table)) {}

HuggingFaceModel::HuggingFaceModel(TensorFolder files, NameTable table)
    : table_(std::move(table)), files_(std::move(files)) {
  if (const auto pair = differing_pair(files_, table_)) {
    throw Error(fmt::format("'{}' has both '{}' and '{}', which should be one tensor, with different contents",
                            files_.where(), pair->first, pair->second),
                "Check that config.json belongs to these weights (tie_word_embeddings).");
  }
  const std::string& prefix = table_.optional_prefix;
  std::map<std::string_view, TensorFolder::Place> found = names_in(files_, table_);
  for (const auto& [name, other] : table_.shared) {
    if (auto stored = found.extract(without_prefix(other, prefix))) {
      stored.key() = without_prefix(name, prefix);
      found.insert(std::move(stored));  // nothing where the first is there: they are equal
    }
  }
  std::set<std::string_view> used;
  std::vector<std::string> missing, unknown, different;
  for (const Mapping& mapping : table_.tensors) {
    Source source{&mapping, {}};
    for (const Block& block : mapping.blocks) {
      const auto place = found.find(without_prefix(block.name, prefix));
      if (place == found.end()) {
        missing.push_back(block.name);
        continue;
      }
      const FileTensor& tensor = *place->second.tensor;
      if (tensor.shape != block.shape) {
        different.push_back(
            fmt::format("{} is {}, expected {}", tensor.name, to_string(tensor.shape), to_string(block.shape)));
      } else if (!is_float(tensor.dtype)) {
        different.push_back(fmt::format("{} is {}, expected a float type", tensor.name, tensor.type));
      }
      used.insert(place->first);
      source.blocks.push_back(place->second);
    }
    by_name_.emplace(mapping.name, std::move(source));
  }
  for (const auto& [name, place] : found) {
    const auto ignores = [&name = name](const std::string& pattern) { return glob(pattern, name); };
    if (!used.contains(name) && std::none_of(table_.ignored.begin(), table_.ignored.end(), ignores)) {
      unknown.push_back(place.tensor->name);
    }
  }
  if (missing.empty() && unknown.empty() && different.empty()) return;
  throw Error(fmt::format("'{}' does not hold the model that its configuration describes:{}{}{}", files_.where(),
                          listed("missing", missing), listed("unknown", unknown), listed("different", different)),
              "Check that config.json belongs to these weights and that the family is one that can be read.");
}

void HuggingFaceModel::read_range(std::string_view name, int64_t first, int64_t count, Ref destination) const {
  const auto found = by_name_.find(name);
  RL_REQUIRE(found != by_name_.end(), "the table has no tensor '{}'", name);
  const Source& source = found->second;
  RL_REQUIRE(convertible(DType::f32, destination.dtype), "reading into {}", name_of(destination.dtype));
  std::vector<std::byte> scratch;
  // Bands small enough for the cache, when elements are converted on the way.
  constexpr int64_t kBand = 1 << 18;
  for (int64_t done = 0; done < count || (count == 0 && done == 0);) {
    const int64_t part = std::min(kBand, count - done);
    for (const StridedRead& read : strided_reads(*source.mapping, first + done, part)) {
      const TensorFolder::Place& place = source.blocks[read.block];
      const DType dtype = *place.tensor->dtype;
      const std::byte* theirs = place.file->bytes(*place.tensor).data();
      const Ref target = destination.at(read.ours - first);
      const int64_t elements = read.rows * read.columns;
      if (dtype == destination.dtype) {
        gather(read, theirs, target.as<std::byte>(), size_of(dtype));
      } else if (read.column_stride == 1 && read.rows == 1) {
        convert(ConstRef(theirs + read.start * size_of(dtype), dtype), target, elements);
      } else {
        scratch.resize(static_cast<size_t>(elements * size_of(dtype)));
        gather(read, theirs, scratch.data(), size_of(dtype));
        convert(ConstRef(scratch.data(), dtype), target, elements);
      }
    }
    if (count == 0) break;
    done += part;
  }
}

nlohmann::json read_config(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  const std::string text = read_text(path);
  try {
    nlohmann::json config = parse_shallow_json(text, 64);
    if (config.is_object()) return config;
  } catch (const std::exception& error) {
    throw Error(fmt::format("'{}' is no JSON: {}", path.string(), error.what()), "Get the file again.");
  }
  throw Error(fmt::format("'{}' is no JSON object", path.string()), "Get the file again.");
}

}  // namespace ridgeline::checkpoint
