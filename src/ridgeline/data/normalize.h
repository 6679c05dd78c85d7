// Unicode normalization. Internal to the room.
#pragma once

#include <string>
#include <string_view>

namespace ridgeline::data {

// `text` in normal form C: itself, or a view of `buffer`. Bytes that are no UTF-8 stay where they are, and nothing
// composes across them. Characters that came after Unicode 9 are left alone, as in Hugging Face tokenizers (whose
// tables are of that version): ids must not depend on the version of a machine's library.
std::string_view to_nfc(std::string_view text, std::string& buffer);
std::string to_nfc(std::string_view text);

// Likewise in normal form KC, in which also compatible characters are one: full width, ligatures, superscripts.
std::string_view to_nfkc(std::string_view text, std::string& buffer);

}  // namespace ridgeline::data
