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

// All code points from U+0300 on begin with this byte or a higher one; those below never change in form C, and never
// combine with one another. In form KC those of ASCII alone are such.
constexpr uint8_t kFirstOfC = 0xCC, kFirstOfKc = 0x80;
// ICU counts in int32.
constexpr size_t kMostAtOnce = size_t{1} << 30;

class Composer {
 public:
  static const Composer& of_c() {
    static const Composer composer(icu::Normalizer2::getNFCInstance);
    return composer;
  }
  static const Composer& of_kc() {
    static const Composer composer(icu::Normalizer2::getNFKCInstance);
    return composer;
  }

  // `text` is UTF-8 and at most kMostAtOnce.
  bool keeps(std::string_view text) const {
    UErrorCode code = U_ZERO_ERROR;
    const bool normalized = normalizer_.isNormalizedUTF8(piece(text), code) != 0;
    require(code);
    return normalized;
  }
  void append(std::string_view text, std::string& out) const {
    UErrorCode code = U_ZERO_ERROR;
    icu::StringByteSink<std::string> sink(&out);
    normalizer_.normalizeUTF8(0, piece(text), sink, nullptr, code);
    require(code);
  }

 private:
  using Library = const icu::Normalizer2* (*)(UErrorCode&);

  explicit Composer(Library library) : known_(make_known()), normalizer_(normalizer_of(library), known_) {}

  static icu::StringPiece piece(std::string_view text) { return {text.data(), static_cast<int32_t>(text.size())}; }
  static void require(UErrorCode code) {
    if (U_FAILURE(code)) throw Error(fmt::format("Unicode normalization failed: {}", u_errorName(code)));
  }
  static const icu::Normalizer2& normalizer_of(Library library) {
    UErrorCode code = U_ZERO_ERROR;
    const icu::Normalizer2* const result = library(code);
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
  icu::FilteredNormalizer2 normalizer_;
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

std::string_view composed(const Composer& composer, std::string_view text, std::string& buffer) {
  bool all = true;
  for_each_part(text, [&](std::string_view part, bool valid) { all = all && (!valid || composer.keeps(part)); });
  if (all) return text;
  buffer.clear();
  buffer.reserve(text.size());
  for_each_part(text, [&](std::string_view part, bool valid) {
    if (valid) {
      composer.append(part, buffer);
    } else {
      buffer.append(part);
    }
  });
  return buffer;
}

bool reaches(std::string_view text, uint8_t first) {
  return std::any_of(text.begin(), text.end(), [first](char c) { return static_cast<uint8_t>(c) >= first; });
}

}  // namespace

std::string_view to_nfc(std::string_view text, std::string& buffer) {
  return reaches(text, kFirstOfC) ? composed(Composer::of_c(), text, buffer) : text;
}

std::string_view to_nfkc(std::string_view text, std::string& buffer) {
  return reaches(text, kFirstOfKc) ? composed(Composer::of_kc(), text, buffer) : text;
}

std::string to_nfc(std::string_view text) {
  std::string buffer;
  return std::string(to_nfc(text, buffer));
}

}  // namespace ridgeline::data
