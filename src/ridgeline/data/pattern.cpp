#include "ridgeline/data/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <utility>

#include "ridgeline/data/later_characters.h"
#include "ridgeline/data/pattern_syntax.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

// What one search writes to; a thread runs one at a time.
class Scratch {
 public:
  static Scratch& of_thread() {
    thread_local Scratch scratch;
    return scratch;
  }
  pcre2_match_data* data() const { return data_.get(); }
  pcre2_match_context* context() const { return context_.get(); }

 private:
  // Enough for a step back at each of some ten thousand characters; beyond, the interpreter takes the heap.
  static constexpr size_t kLeastStack = size_t{32} << 10, kMostStack = size_t{1} << 20;

  Scratch()
      : data_(pcre2_match_data_create(1, nullptr), pcre2_match_data_free),
        context_(pcre2_match_context_create(nullptr), pcre2_match_context_free),
        stack_(pcre2_jit_stack_create(kLeastStack, kMostStack, nullptr), pcre2_jit_stack_free) {
    if (!data_ || !context_) throw Error("no memory for a regular expression");
    pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }

  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data_;
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context_;
  std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)> stack_;
};

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// For bytes that are no character: one of as many bytes that is neither letter, number nor white space.
constexpr std::array<std::string_view, 3> kNotText = {"\x01", "\xC2\x80", "\xEE\x80\x80"};

// The text as the library may see it: itself, or a copy of the same length.
std::string_view visible(std::string_view text, std::string& copy) {
  bool copied = false;
  const auto put = [&](size_t at, std::string_view bytes) {
    if (!std::exchange(copied, true)) copy.assign(text);
    copy.replace(at, bytes.size(), bytes);
  };
  std::string proxy;
  for (size_t i = 0; i < text.size();) {
    if (static_cast<uint8_t>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Utf8Char character = decode_utf8(text.substr(i));
    if (character.status != Utf8Char::Status::valid) {
      put(i, kNotText[character.length - 1U]);
    } else if (const uint32_t other = known_character(character.code); other != character.code) {
      proxy.clear();
      append_utf8(other, proxy);
      put(i, proxy);
    }
    i += character.length;
  }
  return copied ? std::string_view(copy) : text;
}

}  // namespace

Pattern Pattern::literal(std::string text) {
  RL_REQUIRE(!text.empty(), "a pattern without text");
  Pattern pattern;
  pattern.name_ = "=" + text;
  pattern.literal_ = std::move(text);
  return pattern;
}

Pattern Pattern::regex(std::string_view expression) {
  Pattern pattern;
  pattern.name_ = fmt::format("~{}", expression);
  const std::string translated = to_pcre2(expression);
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (!context) throw Error("no memory for a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t place = 0;
  pcre2_code* const code =
      pcre2_compile(bytes_of(translated), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &place, context.get());
  if (code == nullptr) throw UnsupportedPattern(fmt::format("PCRE2 says of it: {}", message_of(error)));
  pattern.code_.reset(code, pcre2_code_free);
  // Where the processor has no compiler in the library, its interpreter does the same.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return pattern;
}

Pattern::Search::Search(const Pattern& pattern, std::string_view text) : pattern_(pattern), text_(text) {
  if (pattern.code_) text_ = visible(text, copy_);
}

std::optional<Pattern::Match> Pattern::Search::match_from(size_t from) {
  if (!pattern_.code_) {
    const size_t begin = text_.find(pattern_.literal_, from);
    if (begin == std::string_view::npos) return std::nullopt;
    return Match{begin, begin + pattern_.literal_.size()};
  }
  const Scratch& scratch = Scratch::of_thread();
  const auto run = [&](uint32_t options) {
    return pcre2_match(pattern_.code_.get(), bytes_of(text_), text_.size(), from, PCRE2_NO_UTF_CHECK | options,
                       scratch.data(), scratch.context());
  };
  int found = run(0);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(PCRE2_NO_JIT);
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (found < 0) {
    throw Error(fmt::format("the tokenizer's pattern '{}' fails on a text of {} bytes, from byte {} on: {}",
                            pattern_.name_.substr(1), text_.size(), from, message_of(found)),
                "Cut the document that has this text into shorter ones.");
  }
  const size_t* const ends = pcre2_get_ovector_pointer(scratch.data());
  return Match{ends[0], ends[1]};
}

std::optional<Pattern::Match> Pattern::Search::next() {
  while (!done_) {
    const std::optional<Match> match = from_ <= text_.size() ? match_from(from_) : std::nullopt;
    if (!match) break;
    from_ = match->end;
    const bool again = match->begin == match->end && last_end_ == match->end;
    if (!again) {
      last_end_ = match->end;
      return match;
    }
    from_ += from_ < text_.size() ? decode_utf8(text_.substr(from_)).length : 1;
  }
  done_ = true;
  return std::nullopt;
}

}  // namespace ridgeline::data
