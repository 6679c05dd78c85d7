// Tokens beside the vocabulary: special ones ("<|endoftext|>") and others (CodeGen's runs of spaces), found in a text
// before it is cut into words, as Hugging Face tokenizers do. Internal to the room.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ridgeline/data/tokenizer.h"

namespace ridgeline::data {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = true;         // text unless Specials::recognise; all others are always found
  bool in_vocabulary = true;   // also an entry of vocab.json
  bool lstrip = false;         // takes the white space before it, too
  bool rstrip = false;         // and after it
  bool normalized = false;     // looked for in the normalized text, after all those that are not
  bool single_word = false;    // not beside letters, digits and what else belongs to words
  bool as_normalized = false;  // `content` is in normal form already
};

// Finds tokens in a text: at the leftmost place where any begins the longest that fits there; then goes on behind it.
class AddedTokenMatcher {
 public:
  // `index` is that of `token` in the list given to split_at_added() later. The content is not empty; it is the
  // token's, perhaps normalized.
  void add(const AddedToken& token, std::string_view content, size_t index);

  // Whether it can find nothing that counts.
  bool empty(Specials specials) const { return (specials == Specials::as_text ? ordinary_ : tokens_) == 0; }

  struct Match {
    size_t index;       // as given to add()
    size_t begin, end;  // in the text
  };
  // The longest token that begins at `begin`.
  std::optional<Match> longest_at(std::string_view text, size_t begin) const;
  // Whether a token stands in `text` across `cut`, or so near that it might take white space from its other side.
  bool touches(std::string_view text, size_t cut) const;

  // The first match that begins at `from` or later.
  std::optional<Match> find(std::string_view text, size_t from) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> next;
    std::optional<size_t> token;
  };
  std::vector<Node> nodes_ = std::vector<Node>(1);
  size_t longest_ = 0;                 // bytes of a token
  std::array<uint32_t, 256> first_{};  // the node behind a first byte; 0: no token begins with it
  size_t tokens_ = 0, ordinary_ = 0;   // ordinary: not special
};

// Cuts `text` at the tokens of `matcher`: ordinary(stretch) for each non-empty stretch between them, found(token) for
// each token, in order. Special tokens are passed over unless `specials` says to recognise them.
template <typename Ordinary, typename Found>
void split_at_added(const AddedTokenMatcher& matcher, const std::vector<AddedToken>& tokens, std::string_view text,
                    Specials specials, Ordinary&& ordinary, Found&& found);

// The white space that ends `text`, or that begins it, in bytes.
size_t trailing_space(std::string_view text);
size_t leading_space(std::string_view text);
// Whether a character that belongs to words ends `text`, or begins it: Alphabetic, marks, decimal digits, connector
// punctuation, joiners.
bool ends_in_word(std::string_view text);
bool begins_in_word(std::string_view text);

template <typename Ordinary, typename Found>
void split_at_added(const AddedTokenMatcher& matcher, const std::vector<AddedToken>& tokens, std::string_view text,
                    Specials specials, Ordinary&& ordinary, Found&& found) {
  size_t done = 0;
  for (size_t from = 0; !matcher.empty(specials);) {
    const std::optional<AddedTokenMatcher::Match> match = matcher.find(text, from);
    if (!match) break;
    from = match->end;
    const AddedToken& token = tokens[match->index];
    if (token.special && specials == Specials::as_text) continue;
    size_t begin = match->begin, end = match->end;
    if (token.single_word && (ends_in_word(text.substr(0, begin)) || begins_in_word(text.substr(end)))) continue;
    if (token.lstrip) begin = std::max(begin - trailing_space(text.substr(0, begin)), done);
    if (token.rstrip) end += leading_space(text.substr(end));
    if (done < begin) ordinary(text.substr(done, begin - done));
    found(token);
    done = end;
  }
  if (done < text.size()) ordinary(text.substr(done));
}

}  // namespace ridgeline::data
