// What everything that writes token datasets has in common. Internal to the room.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "ridgeline/data/indexed_dataset.h"

namespace ridgeline::data {

inline constexpr std::string_view kIndexMagic{"MMIDIDX\0\0", 9};
inline constexpr const char* kNoteChecksums = "crc32c_of_64_mib_blocks";
inline constexpr const char* kNoteBlocks = "blocks";
static_assert(kChecksumBlock == int64_t{64} << 20);

// PREFIX and `suffix`.
std::filesystem::path with_suffix(const std::filesystem::path& prefix, std::string_view suffix);

// Appends `tokens` as `type` has them. Error naming `document`: a token outside [0, vocabulary).
template <typename Id>  // uint16_t or int32_t
void append_tokens(std::span<const Id> tokens, TokenType type, int64_t vocabulary, int64_t document,
                   std::vector<std::byte>& to);

// Error naming `document` when it has more tokens than the format counts.
void require_countable(int64_t tokens, int64_t document);

// The lengths of all documents, in pieces: visit(lengths) for each, in order. Called more than once.
using VisitLengths = std::function<void(std::span<const int32_t>)>;
using LengthSource = std::function<void(const VisitLengths& visit)>;

// Puts a dataset into place: its note (none: none is left), by `place_tokens` its .bin, of `documents` documents, and
// last its .idx, so that a reader sees a whole dataset or none. A process that is stopped meanwhile leaves all files of
// a new dataset or none. Memory does not grow with the documents.
void place_dataset(const std::filesystem::path& prefix, TokenType type, int64_t documents, const LengthSource& lengths,
                   const std::optional<DatasetNote>& note, const std::function<void()>& place_tokens);

}  // namespace ridgeline::data
