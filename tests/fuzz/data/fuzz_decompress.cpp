// gzip, Zstandard and xz: any bytes give an Error or the same text whatever the size of the reads, in bounded memory.
#include <algorithm>

#include "../../unit/data/memory_bytes.h"
#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/data/decompress.h"

using namespace ridgeline;        // NOLINT
using namespace ridgeline::data;  // NOLINT

namespace {

constexpr size_t kMost = size_t{1} << 16;  // of a text: a few bytes may stand for gigabytes

// The text, then "!" where an Error ended it.
std::string unpack(Compression compression, std::string_view bytes, size_t step) {
  std::string text, part(step, '\0');
  try {
    const auto source = decompress(compression, std::make_unique<test::MemoryBytes>(std::string(bytes)), "input");
    for (size_t got = step; got == step && text.size() < kMost;) {
      got = source->read(part);
      RL_CHECK(got, <=, step);
      RL_CHECK(source->position(), <=, static_cast<int64_t>(bytes.size()));
      text.append(part, 0, got);
    }
  } catch (const Error&) {
    text += '!';
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const Compression compression = compression_of(bytes);
  if (compression == Compression::none) return 0;
  const std::string text = unpack(compression, bytes, kMost);
  const bool refused = text.ends_with('!');
  // What stands before damage may come out in part.
  if (!refused && text.size() < kMost) RL_REQUIRE(unpack(compression, bytes, 97) == text, "other reads, another text");
  return 0;
}

// As the tools write them: tests/data/corpora/README.md.
std::vector<std::string> seeds() {
  return {
      std::string("\037\213\010\000\000\000\000\000\004\003sTH\313,*.QH\311O.\315M\315+\321\341\312OS()\317W\310\311"
                  "\314K-\326\343\342\002\000\204\315u\367!\000\000\000\037\213\010\000Z\271\014k\002\003SP\010\311HU(N"
                  "M\316\317K\261R8<')\265(\275\350\360\266\303\363Su\024\236\355Y\364t\355t=.\317\022\205\324\274\224b"
                  "\205\362\314\222\214\374\322\022\205D\205\244\234\304\274l\205\234\314\274T=.\000\201\264\077^B\000"
                  "\000\000",
                  140),
      std::string("(\265/\375\004h\011\001\000A first document,\012of two lines.\012\012\265Z\017\217P*M\030\003\000"
                  "\000\000abc(\265/\375\004X\021\002\000  The second: \303\234bergr\303\266\303\237e, \346\274\242\345"
                  "\255\227.\012It ends without a blank line.\012l*\274\015",
                  136),
      std::string("\3757zXZ\000\000\004\346\326\264F\002\000!\001\026\000\000\000t/\345\243\001\000 A first document,"
                  "\012of two lines.\012\012\000\000\000\000\134\276q\201<\077\255#\000\0019!\317(kb\037\266\363}\001"
                  "\000\000\000\000\004YZ\000\000\000\000\3757zXZ\000\000\001i\042\3366\002\000!\001\026\000\000\000t/"
                  "\345\243\001\000A  The second: \303\234bergr\303\266\303\237e, \346\274\242\345\255\227.\012It ends "
                  "without a blank line.\012\000\000\000\201\264\077^\000\001VBEo\265T\220B\231\015\001\000\000\000\000"
                  "\001YZ",
                  216),
  };
}
