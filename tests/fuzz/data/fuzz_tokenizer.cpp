// tokenizer.json: any text gives an Error or a tokenizer with which any bytes come back; the bytes are the input
// itself.
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
  return model.nfc || model.prefix_space || !model.every_byte ||
         std::any_of(model.added_tokens.begin(), model.added_tokens.end(),
                     [](const AddedToken& token) { return token.lstrip || token.rstrip; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  static const Tokenizer known = Tokenizer::from_json(seeds()[0], "seed");
  RL_REQUIRE(known.decode(known.encode(text)) == text, "bytes changed");
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
  return {gpt2, llama3};
}
