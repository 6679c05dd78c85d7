#include "ridgeline/data/added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/data/later_characters.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

bool belongs_to_words(const Utf8Char& character) {
  if (character.status != Utf8Char::Status::valid) return false;
  const auto code = static_cast<UChar32>(known_character(character.code));
  constexpr uint32_t kCategories = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_hasBinaryProperty(code, UCHAR_ALPHABETIC) != 0 || (U_GET_GC_MASK(code) & kCategories) != 0 ||
         u_hasBinaryProperty(code, UCHAR_JOIN_CONTROL) != 0;
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token, std::string_view content, size_t index) {
  RL_REQUIRE(!content.empty(), "an added token without content");
  uint32_t node = 0;
  for (const char c : content) {
    const auto byte = static_cast<uint8_t>(c);
    auto& next = nodes_[node].next;
    const auto edge = std::find_if(next.begin(), next.end(), [&](const auto& e) { return e.first == byte; });
    if (edge != next.end()) {
      node = edge->second;
      continue;
    }
    const auto made = static_cast<uint32_t>(nodes_.size());
    next.emplace_back(byte, made);
    if (node == 0) first_[byte] = made;
    nodes_.emplace_back();
    node = made;
  }
  nodes_[node].token = index;
  longest_ = std::max(longest_, content.size());
  ++tokens_;
  if (!token.special) ++ordinary_;
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::longest_at(std::string_view text, size_t begin) const {
  std::optional<Match> longest;
  uint32_t node = first_[static_cast<uint8_t>(text[begin])];
  if (node == 0) return longest;
  for (size_t end = begin + 1;; ++end) {
    if (nodes_[node].token) longest = Match{*nodes_[node].token, begin, end};
    if (end == text.size()) break;
    const auto& next = nodes_[node].next;
    const auto byte = static_cast<uint8_t>(text[end]);
    const auto edge = std::find_if(next.begin(), next.end(), [&](const auto& e) { return e.first == byte; });
    if (edge == next.end()) break;
    node = edge->second;
  }
  return longest;
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (first_[static_cast<uint8_t>(text[begin])] == 0) [[likely]]
      continue;
    if (const std::optional<Match> longest = longest_at(text, begin)) return longest;
  }
  return std::nullopt;
}

bool AddedTokenMatcher::touches(std::string_view text, size_t cut) const {
  // One that ends right before the cut may take the space there, and one that begins behind it that before.
  for (size_t begin = cut - std::min(cut, longest_); begin < text.size() && begin <= cut; ++begin) {
    const std::optional<Match> match = longest_at(text, begin);
    if (match && match->end >= cut) return true;
  }
  return false;
}

size_t trailing_space(std::string_view text) {
  size_t size = text.size();
  while (size > 0) {
    size_t begin = size - 1;
    while (begin > 0 && size - begin < 4 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    const Utf8Char last = decode_utf8(text.substr(begin, size - begin));
    const bool whole = last.status == Utf8Char::Status::valid && last.length == size - begin;
    if (!whole || class_of(last.code) != CharClass::space) break;
    size = begin;
  }
  return text.size() - size;
}

bool ends_in_word(std::string_view text) {
  return !text.empty() && belongs_to_words(decode_last_utf8(text));
}

bool begins_in_word(std::string_view text) {
  return !text.empty() && belongs_to_words(decode_utf8(text));
}

size_t leading_space(std::string_view text) {
  size_t size = 0;
  while (size < text.size()) {
    const Utf8Char next = decode_utf8(text.substr(size));
    if (next.status != Utf8Char::Status::valid || class_of(next.code) != CharClass::space) break;
    size += next.length;
  }
  return size;
}

}  // namespace ridgeline::data
