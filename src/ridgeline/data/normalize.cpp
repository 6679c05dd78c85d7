#include "ridgeline/data/normalize.h"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

// All code points from U+0300 on begin with this byte or a higher one; those below never change and never combine with
// one another.
constexpr uint8_t kFirstThatMatters = 0xCC;
// ICU counts in int32.
constexpr size_t kMostAtOnce = size_t{1} << 30;

class Nfc {
 public:
  static const Nfc& instance() {
    static const Nfc nfc;
    return nfc;
  }

  // `text` is UTF-8 and at most kMostAtOnce.
  bool keeps(std::string_view text) const {
    UErrorCode code = U_ZERO_ERROR;
    const bool normalized = nfc_.isNormalizedUTF8(piece(text), code) != 0;
    require(code);
    return normalized;
  }
  void append(std::string_view text, std::string& out) const {
    UErrorCode code = U_ZERO_ERROR;
    icu::StringByteSink<std::string> sink(&out);
    nfc_.normalizeUTF8(0, piece(text), sink, nullptr, code);
    require(code);
  }

 private:
  Nfc() : known_(make_known()), nfc_(library(), known_) {}

  static icu::StringPiece piece(std::string_view text) { return {text.data(), static_cast<int32_t>(text.size())}; }
  static void require(UErrorCode code) {
    if (U_FAILURE(code)) throw Error(fmt::format("Unicode normalization failed: {}", u_errorName(code)));
  }
  static const icu::Normalizer2& library() {
    UErrorCode code = U_ZERO_ERROR;
    const icu::Normalizer2* const result = icu::Normalizer2::getNFCInstance(code);
    require(code);
    return *result;
  }
  static icu::UnicodeSet make_known() {
    UErrorCode code = U_ZERO_ERROR;
    icu::UnicodeSet set(u"[:age=9.0:]", code);
    require(code);
    set.freeze();
    return set;
  }

  icu::UnicodeSet known_;
  icu::FilteredNormalizer2 nfc_;
};

// f(part, valid) for consecutive parts of `text`: UTF-8 of bounded size that ends before an ASCII character, which
// combines with nothing before it, or bytes that are none.
template <typename F>
void for_each_part(std::string_view text, F&& f) {
  while (!text.empty()) {
    size_t size = valid_utf8_prefix(text.substr(0, kMostAtOnce));
    if (size == 0) {
      size = decode_utf8(text).length;
      f(text.substr(0, size), false);
    } else {
      if (size < text.size() && size + 4 > kMostAtOnce) {
        while (size > 0 && static_cast<uint8_t>(text[size]) >= 0x80) --size;
        if (size == 0) throw Error("a document has a gigabyte without one ASCII character", "Cut it into documents.");
      }
      f(text.substr(0, size), true);
    }
    text.remove_prefix(size);
  }
}

}  // namespace

std::string_view to_nfc(std::string_view text, std::string& buffer) {
  const auto matters = [](char c) { return static_cast<uint8_t>(c) >= kFirstThatMatters; };
  if (std::none_of(text.begin(), text.end(), matters)) return text;
  const Nfc& nfc = Nfc::instance();
  bool all = true;
  for_each_part(text, [&](std::string_view part, bool valid) { all = all && (!valid || nfc.keeps(part)); });
  if (all) return text;
  buffer.clear();
  buffer.reserve(text.size());
  for_each_part(text, [&](std::string_view part, bool valid) {
    if (valid) {
      nfc.append(part, buffer);
    } else {
      buffer.append(part);
    }
  });
  return buffer;
}

std::string to_nfc(std::string_view text) {
  std::string buffer;
  return std::string(to_nfc(text, buffer));
}

}  // namespace ridgeline::data
