#include "ridgeline/data/pattern_syntax.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "ridgeline/data/pattern.h"

namespace ridgeline::data {
namespace {

constexpr auto kCategories = std::to_array<std::string_view>(
    {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps",
     "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co"});
// Those that tools/make_later_characters.py tells apart.
constexpr auto kScripts = std::to_array<std::string_view>({"Han", "Hiragana", "Katakana", "Hangul"});
// Letters that together are what one character folds to: U+00DF, U+FB00 … U+FB06.
constexpr auto kFolded = std::to_array<std::string_view>({"ss", "st", "ff", "fi", "fl"});

template <size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

[[noreturn]] void refuse_feature(std::string feature) {
  throw UnsupportedPattern(std::move(feature));
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

class Translator {
 public:
  explicit Translator(std::string_view expression) : in_(expression) {}

  std::string run() {
    while (at_ < in_.size()) item();
    if (!groups_.empty()) refuse_feature("a '(' without ')'");
    return std::move(out_);
  }

 private:
  // What stands before a place: a quantifier may follow an atom alone.
  enum class Before { nothing, atom, quantifier };
  struct Group {
    bool caseless;  // outside of it
    bool look_around;
  };

  bool next_is(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    at_ += text.size();
    return true;
  }

  void item() {
    const char c = in_[at_];
    if (c != '\\' && !is_letter(c)) last_letter_ = '\0';
    switch (c) {
      case '\\':
        last_letter_ = '\0';
        escape();
        before_ = Before::atom;
        return;
      case '[':
        set();
        before_ = Before::atom;
        return;
      case '(':
        open();
        return;
      case ')':
        close();
        return;
      case '*':
      case '+':
      case '?':
        quantifier();
        return;
      case '{':
        interval();
        return;
      case '|':
      case '^':
      case '$':
        before_ = Before::nothing;
        break;
      case '.':
        before_ = Before::atom;
        break;
      default:
        literal(c);
        before_ = Before::atom;
    }
    out_ += c;
    ++at_;
  }

  // A character that stands for itself: in (?i:) not one whose case is more than that of one character.
  void literal(char c) {
    if (!caseless_) return;
    if (static_cast<unsigned char>(c) >= 0x80) refuse_feature("a character beyond ASCII in '(?i:'");
    if (!is_letter(c)) return;
    const char lower = static_cast<char>(c | 0x20);
    if (contains(kFolded, std::string{last_letter_, lower})) {
      refuse_feature(fmt::format("'{}{}' in '(?i:', which one character may stand for", last_letter_, lower));
    }
    last_letter_ = lower;
  }

  void escape() {
    if (at_ + 1 == in_.size()) refuse_feature("a '\\' at the end");
    const char c = in_[at_ + 1];
    at_ += 2;
    switch (c) {
      case 'd':
      case 'D':
      case 's':
      case 'S':
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        out_ += {'\\', c};
        return;
      case 'v':
        out_ += "\\x{b}";
        return;
      case 'p':
      case 'P':
        return property(c);
      case 'x':
        return take("{") ? code_point(1, 8, true) : code_point(2, 2, false);
      case 'u':
        return code_point(4, 4, false);
      default:
        if (is_letter(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80)
          refuse_feature(fmt::format("'\\{}'", c));
        out_ += {'\\', c};
    }
  }

  void code_point(size_t least, size_t most, bool braces) {
    size_t digits = 0;
    while (digits < most && at_ + digits < in_.size() && is_hex(in_[at_ + digits])) ++digits;
    const std::string_view number = in_.substr(at_, digits);
    at_ += digits;
    if (digits < least || (braces && !take("}")))
      refuse_feature("a code point of another form than \\xHH, \\x{H…} or \\uHHHH");
    // Two digits are a byte, which may be a part of a character.
    if (most == 2 && number[0] >= '8') refuse_feature(fmt::format("'\\x{}'", number));
    if (caseless_) refuse_feature("a code point in '(?i:'");
    out_ += fmt::format("\\x{{{}}}", number);
  }

  void property(char letter) {
    const size_t end = in_.find('}', at_);
    if (!take("{") || end == std::string_view::npos) refuse_feature(fmt::format("'\\{}' without braces", letter));
    const bool negated = take("^");
    const std::string_view name = in_.substr(at_, end - at_);
    at_ = end + 1;
    const bool script = contains(kScripts, name);
    if (!script && !contains(kCategories, name)) refuse_feature(fmt::format("'\\{}{{{}}}'", letter, name));
    if (caseless_) refuse_feature("'\\p' in '(?i:'");
    out_ += fmt::format("\\{}{{{}{}{}}}", letter, negated ? "^" : "", script ? "sc:" : "", name);
  }

  // A set, with those inside it joined to it.
  void set() {
    ++at_;
    out_ += '[';
    if (take("^")) out_ += '^';
    size_t depth = 1;
    const auto begin = [&] {
      if (next_is("]")) refuse_feature("a ']' that begins a set");
      if (depth > 1 && next_is("-")) refuse_feature("a '-' that begins a set in a set");
    };
    begin();
    bool hyphen = false;  // the last was one
    while (depth > 0) {
      if (at_ == in_.size()) refuse_feature("a '[' without ']'");
      const char c = in_[at_];
      const bool after_hyphen = std::exchange(hyphen, c == '-');
      if (c == '\\') {
        escape();
        continue;
      }
      if (next_is("&&")) refuse_feature("an intersection of sets ('&&')");
      if (next_is("[:")) refuse_feature("a POSIX bracket ('[:')");
      if (next_is("[^")) refuse_feature("a negated set in a set");
      if ((c == '[' || (c == ']' && depth > 1)) && after_hyphen) refuse_feature("a '-' beside a set in a set");
      ++at_;
      if (c == '[') {
        ++depth;
        begin();
      } else if (c == ']') {
        if (--depth == 0) out_ += ']';
      } else {
        if (caseless_ && static_cast<unsigned char>(c) >= 0x80) refuse_feature("a character beyond ASCII in '(?i:'");
        if (c == '^') out_ += '\\';
        out_ += c;
      }
    }
  }

  void open() {
    ++at_;
    Group group{caseless_, false};
    std::string_view form = "(?:";
    if (take("?")) {
      if (take("i:")) {
        form = "(?i:", caseless_ = true;
      } else if (take("-i:")) {
        form = "(?-i:", caseless_ = false;
      } else if (take("<=") || take("<!") || take("=") || take("!")) {
        const char last = in_[at_ - 1];
        form = in_[at_ - 2] == '<' ? (last == '=' ? "(?<=" : "(?<!") : (last == '=' ? "(?=" : "(?!");
        group.look_around = true;
      } else if (take(">")) {
        form = "(?>";
      } else if (!take(":")) {
        refuse_feature(fmt::format("'(?{}'", in_.substr(at_, 1)));
      }
    } else if (next_is("*")) {
      refuse_feature("'(*'");
    }
    groups_.push_back(group);
    out_ += form;
    before_ = Before::nothing;
  }

  void close() {
    if (groups_.empty()) refuse_feature("a ')' without '('");
    caseless_ = groups_.back().caseless;
    before_ = groups_.back().look_around ? Before::nothing : Before::atom;
    groups_.pop_back();
    out_ += in_[at_++];
  }

  void require_atom(std::string_view quantifier) {
    if (before_ == Before::nothing) refuse_feature(fmt::format("'{}' with nothing before it to repeat", quantifier));
    if (before_ == Before::quantifier) refuse_feature(fmt::format("'{}' behind another quantifier", quantifier));
    before_ = Before::quantifier;
  }

  void quantifier() {
    require_atom(in_.substr(at_, 1));
    out_ += in_[at_++];
    for (const char* suffix : {"?", "+"}) {
      if (!take(suffix)) continue;
      out_ += suffix;
      return;
    }
  }

  void interval() {
    const auto number = [&] {
      size_t digits = 0;
      while (digits < 5 && at_ + digits < in_.size() && is_digit(in_[at_ + digits])) ++digits;
      const std::string_view text = in_.substr(at_, digits);
      at_ += digits;
      return text;
    };
    require_atom("{");
    ++at_;
    const std::string_view least = number();
    const bool comma = take(",");
    const std::string_view most = comma ? number() : std::string_view();
    if (least.empty() || !take("}")) refuse_feature("a '{' that is not {n}, {n,} or {n,m}");
    out_ += fmt::format("{{{}{}{}}}", least, comma ? "," : "", most);
    if (next_is("+")) refuse_feature("a '+' behind '{…}'");
    if (!take("?")) return;
    if (!comma) refuse_feature("a '?' behind '{n}'");
    out_ += '?';
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  std::vector<Group> groups_;
  bool caseless_ = false;
  char last_letter_ = '\0';
  Before before_ = Before::nothing;
};

}  // namespace

std::string to_pcre2(std::string_view expression) {
  return Translator(expression).run();
}

}  // namespace ridgeline::data
