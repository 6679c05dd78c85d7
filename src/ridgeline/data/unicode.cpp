#include "ridgeline/data/unicode.h"

#include <cstring>

namespace ridgeline::data {

Utf8Char decode_utf8(std::string_view text) {
  using Status = Utf8Char::Status;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, Status::valid};
  if (lead < 0xC2 || lead > 0xF4) return {0xFFFD, 1, Status::invalid};
  const uint8_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and code points past U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  uint32_t code = lead & (0x7FU >> length);
  for (uint8_t i = 1; i < length; ++i) {
    if (i == text.size()) return {0xFFFD, i, Status::incomplete};
    const uint8_t next = byte(i);
    const bool good = i == 1 ? next >= low && next <= high : (next & 0xC0) == 0x80;
    if (!good) return {0xFFFD, i, Status::invalid};
    code = code << 6 | (next & 0x3FU);
  }
  return {code, length, Status::valid};
}

ClassifiedChar detail::classify_decoded(std::string_view text) {
  const Utf8Char character = decode_utf8(text);
  return {character.status == Utf8Char::Status::valid ? class_of(character.code) : CharClass::other, character.length};
}

Utf8Char decode_last_utf8(std::string_view text) {
  size_t start = text.size() - 1;
  while (start > 0 && text.size() - start < 4 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  return decode_utf8(text.substr(start));
}

bool is_blank(std::string_view line) {
  while (!line.empty()) {
    const Utf8Char character = decode_utf8(line);
    if (character.status != Utf8Char::Status::valid || !is_python_space(character.code)) return false;
    line.remove_prefix(character.length);
  }
  return true;
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (text.size() - i >= 8) {
      uint64_t eight = 0;
      std::memcpy(&eight, text.data() + i, 8);
      if ((eight & 0x8080808080808080U) == 0) {
        i += 8;
        continue;
      }
    }
    const Utf8Char character = decode_utf8(text.substr(i));
    if (character.status != Utf8Char::Status::valid) return i;
    i += character.length;
  }
  return i;
}

int64_t append_as_utf8(std::string_view text, std::string& out) {
  int64_t replaced = 0;
  while (true) {
    const size_t good = valid_utf8_prefix(text);
    out.append(text.substr(0, good));
    if (good == text.size()) return replaced;
    out.append(kReplacement);
    ++replaced;
    text.remove_prefix(good + decode_utf8(text.substr(good)).length);
  }
}

void append_utf8(uint32_t code, std::string& out) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | code >> 6);
  } else {
    if (code < 0x10000) {
      put(0xE0 | code >> 12);
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3F));
    }
    put(0x80 | (code >> 6 & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

}  // namespace ridgeline::data
