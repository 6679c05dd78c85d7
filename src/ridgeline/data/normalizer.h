// What the files ask to be done to a text before it is cut into words, and how they ask to cut it. Internal to the
// room.
//
// Where spaces are written as U+2581 ("▁", the mark of SentencePiece), a model works on texts with the space instead,
// in its own tokens too: a byte for three. A step of the files that writes marks for spaces is here one that writes
// spaces for marks, and a text that has marks itself is changed by it as by theirs: nothing tells the two apart from
// there on.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ridgeline/data/pattern.h"

namespace ridgeline::data {

class SentencePieceNormalizer;

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// `text` with a space for each mark.
std::string without_marks(std::string_view text);

class Normalizer {
 public:
  // Steps, in the order in which they are added.
  void nfc();
  void nfkc();
  void prepend(std::string text);                   // before every text that is not empty
  void replace(Pattern pattern, std::string with);  // each match
  void spaces_for_marks();
  void sentencepiece(std::shared_ptr<const SentencePieceNormalizer> normalizer);

  bool empty() const { return steps_.empty(); }
  bool only_nfc() const;
  // `text` itself, or a view of `buffer`.
  std::string_view apply(std::string_view text, std::string& buffer) const;
  // The steps as text; "" without any.
  std::string description() const;

 private:
  struct Nfc {};
  struct Nfkc {};
  struct Prepend {
    std::string text;
  };
  struct Replace {
    Pattern pattern;
    std::string with;
  };
  using Step = std::variant<Nfc, Nfkc, Prepend, Replace, std::shared_ptr<const SentencePieceNormalizer>>;

  static std::string_view apply(const Step& step, std::string_view text, std::string& buffer);

  std::vector<Step> steps_;
};

// Where a text is cut before the last cut, that of PreTokenizer: at the matches of a pattern.
struct Cut {
  // What a match becomes: a part; the end of what is before it; the begin of what is behind it; one part with its
  // neighbours that match, too (and what does not match likewise).
  enum class Behavior : uint8_t { isolated, with_previous, with_next, contiguous };

  Pattern pattern;
  Behavior behavior = Behavior::isolated;
  bool inverted = false;  // what lies between the matches counts as matches, and they do not

  // f(part) for the parts of `text`, in order; together they are the text. As Hugging Face's Split.
  template <typename F>
  void for_each_part(std::string_view text, F&& f) const;

 private:
  // Whether an element belongs to the part of the one before it.
  bool joins(bool previous_matches, bool matches) const {
    switch (behavior) {
      case Behavior::isolated:
        return false;
      case Behavior::with_previous:
        return matches && !previous_matches;
      case Behavior::with_next:
        return !matches && previous_matches;
      case Behavior::contiguous:
        return matches == previous_matches;
    }
    return false;
  }
};

template <typename F>
void Cut::for_each_part(std::string_view text, F&& f) const {
  size_t begin = 0, end = 0;  // of the part that may still grow
  bool any = false, matches = false;
  const auto element = [&](size_t element_end, bool element_matches) {
    element_matches = element_matches != inverted;
    if (any && !joins(matches, element_matches)) {
      if (begin < end) f(text.substr(begin, end - begin));
      begin = end;
    }
    any = true, matches = element_matches, end = element_end;
  };
  Pattern::Search search(pattern, text);
  while (const std::optional<Pattern::Match> match = search.next()) {
    if (end < match->begin) element(match->begin, false);
    element(match->end, true);
  }
  if (end < text.size()) element(text.size(), false);
  if (begin < end) f(text.substr(begin, end - begin));
}

}  // namespace ridgeline::data
