// A pattern of a tokenizer.json: a string, or a regular expression as Hugging Face tokenizers understand it (Oniguruma
// with Ruby's syntax), run by PCRE2. Internal to the room.
//
// An expression is taken only where it means the same to PCRE2 (pattern_syntax.h); anything else is refused by name.
// Characters are those of Unicode 16 whatever version the library has: what it does not know yet, or sees otherwise
// (U+180E as white space), is shown to it as a character of the same category and length. Bytes that are no UTF-8 are
// shown to it as control characters or one for private use.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "ridgeline/base/error.h"

struct pcre2_real_code_8;

namespace ridgeline::data {

// An expression that cannot be run with its meaning kept; the message is the feature at fault ("'\w'").
class UnsupportedPattern : public Error {
 public:
  using Error::Error;
};

class Pattern {
 public:
  struct Match {
    size_t begin, end;  // in the text; may be equal
  };

  // `text` is not empty.
  static Pattern literal(std::string text);
  // UnsupportedPattern when it is none that can be run.
  static Pattern regex(std::string_view expression);

  // What it was made from, and a letter for which of the two it is.
  const std::string& name() const { return name_; }

  // The matches in a text, leftmost first, each from where the one before it ended; an empty one never directly behind
  // another. The text outlives it.
  class Search {
   public:
    Search(const Pattern& pattern, std::string_view text);
    // The next match; none behind the last. Error when the expression takes too many steps.
    std::optional<Match> next();

   private:
    std::optional<Match> match_from(size_t from);

    const Pattern& pattern_;
    std::string_view text_;  // as the library may see it
    std::string copy_;
    size_t from_ = 0;
    std::optional<size_t> last_end_;
    bool done_ = false;
  };

 private:
  std::string name_;
  std::string literal_;
  std::shared_ptr<pcre2_real_code_8> code_;  // null: literal
};

}  // namespace ridgeline::data
