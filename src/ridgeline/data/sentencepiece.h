// SentencePiece's tokenizer.model. Internal to the room.
#pragma once

#include <string>
#include <string_view>

#include "ridgeline/data/bpe_model.h"

namespace ridgeline::data {

// The model that `bytes` describe, a ModelProto of type BPE, without the derived tables. Its control pieces are special
// added tokens, its user-defined pieces added tokens of the normalized text. Merges: every pair of pieces that together
// are a piece, in the order of that piece's score; those of one piece share a rank. What this leaves away of the format
// changes no ids.
// Source: sentencepiece_model.proto of SentencePiece 0.2, and what its library does.
// Error (naming `where`): bytes that are no such model. UnsupportedTokenizer: another type (unigram, word, character),
// UNUSED pieces, and whatever else is not done exactly, by name.
BpeModel read_sentencepiece(std::string_view bytes, const std::string& where);

}  // namespace ridgeline::data
