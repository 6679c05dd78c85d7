// tokenizer.model: any bytes give an Error or a tokenizer that encodes and decodes them.
#include <string_view>

#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/data/tokenizer.h"

using namespace ridgeline;        // NOLINT
using namespace ridgeline::data;  // NOLINT

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  TokenizerFiles files;
  files.set("tokenizer.model", text);
  try {
    const Tokenizer tokenizer = Tokenizer::from_files(files, "input");
    for (const std::string_view words : {std::string_view(text), std::string_view("a b  漢 ab\xFF[T]Ａ")}) {
      for (const Specials specials : {Specials::as_text, Specials::recognise}) {
        tokenizer.decode(tokenizer.encode(words, specials));
      }
    }
    RL_REQUIRE(Tokenizer::from_files(tokenizer.files(), "again").hash() == tokenizer.hash(), "hash changed");
  } catch (const Error&) {
  }
  return 0;
}

namespace {

std::string field(int number, std::string_view bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())}.append(bytes);
}

std::string piece(std::string_view text, int type, char score) {
  // The score as float: so many times its least exponent, and negative.
  const std::string number{'\x15', '\0', '\0', score, '\xC0'};
  return field(1, field(1, text) + number + std::string{'\x18', static_cast<char>(type)});
}

}  // namespace

std::vector<std::string> seeds() {
  const std::string pieces = piece("<unk>", 2, 0) + piece("<s>", 3, 0) + piece("</s>", 3, 0) + piece("[T]", 4, 0) +
                             piece("\u2581a", 1, 1) + piece("ab", 1, 2) + piece("\u2581", 1, 3) + piece("a", 1, 4) +
                             piece("b", 1, 5) + piece("漢", 1, 6) + piece("A", 1, 7);
  const std::string bpe{'\x18', '\x02'};
  // Two units of a trie, and one text.
  const std::string small_map = std::string("\x08\0\0\0", 4) + std::string(8, '\0') + std::string("A\0", 2);
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) {
    constexpr const char* kHex = "0123456789ABCDEF";
    bytes += piece(std::string{'<', '0', 'x', kHex[byte / 16], kHex[byte % 16], '>'}, 6, 0);
  }
  const std::vector<std::string> models = {
      pieces + field(2, bpe), pieces + bytes + field(2, bpe + std::string("\x98\x02\x01", 3)),
      pieces + field(2, bpe) + field(3, field(2, small_map) + std::string("\x18\0\x20\x01", 4))};
  for (const std::string& model : models) {
    TokenizerFiles files;
    files.set("tokenizer.model", model);
    // Throws when it is none: mutations of such seeds would show nothing.
    RL_REQUIRE(Tokenizer::from_files(files, "seed").encode("ab漢") != std::vector<int32_t>{}, "nothing encoded");
  }
  return models;
}
