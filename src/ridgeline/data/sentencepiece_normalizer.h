// How SentencePiece prepares a text: a table of replacements ("nmt_nfkc"), white space, and the space before the first
// word. Internal to the room. Source: the format of its models (sentencepiece_model.proto), and what the library does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ridgeline/data/added_tokens.h"

namespace ridgeline::data {

// NormalizerSpec.precompiled_charsmap: uint32 size of a trie in bytes, the trie (darts-clone's double array, units of
// uint32, little-endian), and the texts that its values point to, each with a zero behind it.
class CharacterMap {
 public:
  CharacterMap() = default;  // changes nothing
  // Error (naming `where`) when the bytes are no such map; a trie is only looked at when it is walked.
  CharacterMap(std::string_view bytes, std::string_view where);

  bool empty() const { return units_.empty(); }
  // The longest key with which `text` begins: its length, 0 when there is none, and what stands for it.
  std::pair<size_t, std::string_view> longest(std::string_view text) const;

 private:
  std::vector<uint32_t> units_;
  std::string texts_;
};

class SentencePieceNormalizer {
 public:
  struct Settings {
    CharacterMap map;
    std::string map_name;                  // for the hash
    bool add_dummy_prefix = true;          // a space before every text
    bool remove_extra_whitespaces = true;  // at both ends, and all but one between words
  };
  // `symbols`: texts that are left as they are, the longest first.
  SentencePieceNormalizer(Settings settings, AddedTokenMatcher symbols);

  // Appends the normal form of `text`, with spaces for marks (normalizer.h). Bytes that are no UTF-8 stay.
  void append(std::string_view text, std::string& out) const;
  std::string description() const;

 private:
  // The length of what `text` (not empty) begins with, and what becomes of it.
  std::pair<size_t, std::string_view> next(std::string_view text) const;

  Settings settings_;
  AddedTokenMatcher symbols_;
};

}  // namespace ridgeline::data
