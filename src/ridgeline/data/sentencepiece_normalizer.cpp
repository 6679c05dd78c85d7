#include "ridgeline/data/sentencepiece_normalizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/data/normalizer.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

// The library looks at no more than this many keys that begin a text, shortest first.
constexpr int kMostKeys = 32;

uint32_t little_endian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value |= uint32_t{static_cast<uint8_t>(bytes[at + i])} << (8 * i);
  return value;
}

// A unit of the trie.
bool has_leaf(uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}
uint32_t value_of(uint32_t unit) {
  return unit & 0x7FFFFFFF;
}
uint32_t label_of(uint32_t unit) {
  return unit & 0x800000FF;
}
uint32_t offset_of(uint32_t unit) {
  return unit >> 10 << ((unit & 0x200) >> 6);
}

}  // namespace

CharacterMap::CharacterMap(std::string_view bytes, std::string_view where) {
  const size_t size = bytes.size() < 4 ? 0 : little_endian(bytes, 0);
  if (size == 0 || size % 4 != 0 || size > bytes.size() - 4) {
    throw Error(fmt::format("{}: the normalizer's table of characters is damaged", where), "Get the file again.");
  }
  units_.resize(size / 4);
  for (size_t i = 0; i < units_.size(); ++i) units_[i] = little_endian(bytes, 4 + 4 * i);
  texts_ = bytes.substr(4 + size);
}

std::pair<size_t, std::string_view> CharacterMap::longest(std::string_view text) const {
  std::pair<size_t, std::string_view> found;
  if (units_.empty()) return found;
  size_t node = offset_of(units_[0]);
  int keys = 0;
  for (size_t i = 0; i < text.size() && keys < kMostKeys; ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (node >= units_.size() || label_of(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= offset_of(unit);
    if (!has_leaf(unit) || node >= units_.size()) continue;
    const size_t place = value_of(units_[node]);
    if (place >= texts_.size()) continue;
    const std::string_view rest = std::string_view(texts_).substr(place);
    found = {i + 1, rest.substr(0, std::min(rest.find('\0'), rest.size()))};
    ++keys;
  }
  return found;
}

SentencePieceNormalizer::SentencePieceNormalizer(Settings settings, AddedTokenMatcher symbols)
    : settings_(std::move(settings)), symbols_(std::move(symbols)) {}

std::pair<size_t, std::string_view> SentencePieceNormalizer::next(std::string_view text) const {
  if (const auto symbol = symbols_.longest_at(text, 0)) return {symbol->end, text.substr(0, symbol->end)};
  if (const auto found = settings_.map.longest(text); found.first != 0) return found;
  const size_t length = decode_utf8(text).length;
  return {length, text.substr(0, length)};
}

void SentencePieceNormalizer::append(std::string_view text, std::string& out) const {
  const bool remove = settings_.remove_extra_whitespaces;
  while (remove && !text.empty()) {
    const auto [length, becomes] = next(text);
    if (becomes != " ") break;
    text.remove_prefix(length);
  }
  if (text.empty()) return;
  const size_t begin = out.size();
  if (settings_.add_dummy_prefix) out += ' ';
  bool after_space = remove;
  while (!text.empty()) {
    auto [length, becomes] = next(text);
    text.remove_prefix(length);
    while (after_space && becomes.starts_with(' ')) becomes.remove_prefix(1);
    if (becomes.empty()) continue;
    after_space = remove && becomes.ends_with(' ');
    out += becomes;
  }
  // The texts between, and what the table has, may hold marks.
  if (out.find(kSpaceMark, begin) != std::string::npos)
    out.replace(begin, out.size(), without_marks(out.substr(begin)));
  while (remove && out.size() > begin && out.ends_with(' ')) out.pop_back();
}

std::string SentencePieceNormalizer::description() const {
  return fmt::format("sentencepiece {} {} {};", settings_.map_name, settings_.add_dummy_prefix,
                     settings_.remove_extra_whitespaces);
}

}  // namespace ridgeline::data
