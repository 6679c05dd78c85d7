// tokenizer.json: any text gives an Error or a tokenizer with which any bytes come back; the bytes are the input
// itself.
#include <fmt/format.h>

#include <algorithm>

#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/data/tokenizer_json.h"
#include "ridgeline/data/tokenizer_trainer.h"

using namespace ridgeline;        // NOLINT
using namespace ridgeline::data;  // NOLINT

namespace {

// Whether a tokenizer.json asks for something that changes texts.
bool changes_text(std::string_view text) {
  TokenizerFiles files;
  files.set("tokenizer.json", std::string(text));
  const BpeModel model = read_bpe_model(files, "input");
  return !model.normalizer.empty() || !model.word_normalizer.empty() || model.prefix_space != PrefixSpace::none ||
         !model.every_byte ||
         std::any_of(model.added_tokens.begin(), model.added_tokens.end(),
                     [](const AddedToken& token) { return token.lstrip || token.rstrip; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  static const Tokenizer known = Tokenizer::from_json(seeds()[0], "seed");
  const std::vector<int32_t> ids = known.encode(text);
  RL_REQUIRE(known.decode(ids) == text, "bytes changed");
  // What remembers words gives the same, also those that it has just met, in both types.
  static Encoder encoder(known);
  static EncoderOf<uint16_t> narrow_encoder(known);
  for (int pass = 0; pass < 2; ++pass) {
    std::vector<int32_t> again;
    std::vector<uint16_t> narrow;
    encoder.encode(text, again);
    narrow_encoder.encode(text, narrow);
    RL_REQUIRE(again == ids && std::equal(narrow.begin(), narrow.end(), ids.begin(), ids.end()), "ids changed");
  }
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(text, "input");
    for (const Specials specials : {Specials::as_text, Specials::recognise}) {
      const std::string decoded = tokenizer.decode(tokenizer.encode(text, specials));
      RL_REQUIRE(changes_text(text) || decoded == text, "bytes changed");
    }
    RL_REQUIRE(Tokenizer::from_json(tokenizer.to_json(), "again").hash() == tokenizer.hash(), "hash changed");
  } catch (const Error&) {
  }
  return 0;
}

namespace {

// A small one of characters.
std::string marked() {
  std::string vocabulary = R"("<unk>":0,"<s>":1,"▁":2,"a":3,"b":4,"ab":5,"▁a":6,"▁▁":7,"漢":8)";
  for (int byte = 0; byte < 256; ++byte) vocabulary += fmt::format(R"(,"<0x{:02X}>":{})", byte, 9 + byte);
  return R"({"added_tokens":[{"id":1,"content":"<s>","special":true},{"id":265,"content":"[T]","lstrip":true,"single_word":true,"normalized":false}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true},
"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},
{"type":"Strip","content":" ","start":1,"stop":0}]},
"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{)" +
         vocabulary + R"(},"merges":[["a","b"],["▁","a"],["▁","▁"]]}})";
}

}  // namespace

std::vector<std::string> seeds() {
  PieceCounts counts;
  counts.add("the cat and the hat and the bat; that is that, 漢字 漢字 12 12");
  const std::string gpt2 = train_tokenizer(counts, 275).to_json();
  std::string llama3 = gpt2;
  const size_t begin = llama3.find("\"pre_tokenizer\": "), end = llama3.find('\n', begin);
  std::string pattern;
  for (const char c : pattern_of(PreTokenizer::llama3)) pattern += c == '\\' ? "\\\\" : std::string(1, c);
  llama3.replace(
      begin, end - begin,
      "\"pre_tokenizer\": {\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" +
          pattern +
          "\"},\"behavior\":\"Isolated\",\"invert\":false},"
          "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},");
  RL_REQUIRE(Tokenizer::from_json(llama3, "seed").hash() != Tokenizer::from_json(gpt2, "seed").hash(),
             "one cut for both");
  std::string other = llama3;
  other.replace(other.find("(?i:"), 4, "(?:[\\\\p{Lu}a-c]|");
  return {gpt2, llama3, other, marked()};
}
