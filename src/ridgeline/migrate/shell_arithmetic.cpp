#include "ridgeline/migrate/shell_arithmetic.h"

#include <cctype>
#include <limits>

#include "ridgeline/migrate/source.h"

namespace ridgeline::migrate {
namespace {

using Number = std::optional<int64_t>;
constexpr int kDeepestExpression = 64;

bool in_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

Number computed(char sign, int64_t left, int64_t right) {
  int64_t result = 0;
  switch (sign) {
    case '+':
      return __builtin_add_overflow(left, right, &result) ? Number() : result;
    case '-':
      return __builtin_sub_overflow(left, right, &result) ? Number() : result;
    case '*':
      return __builtin_mul_overflow(left, right, &result) ? Number() : result;
    default:
      if (right == 0 || (right == -1 && left == std::numeric_limits<int64_t>::min())) return {};
      return sign == '/' ? left / right : left % right;
  }
}

// By recursive descent; `at_` moves past what was read.
class Expression {
 public:
  Expression(std::string_view text, const NumberOf& number_of) : text_(text), number_of_(number_of) {}

  Number whole() {
    const Number value = series("+-");
    blanks();
    return at_ == text_.size() ? value : Number();
  }

 private:
  void blanks() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
  }
  // Whether the next character is one of `signs`; of these `*` is not when it is the first of `**`.
  char sign(std::string_view signs) {
    blanks();
    if (at_ == text_.size() || signs.find(text_[at_]) == std::string_view::npos) return 0;
    if (text_.substr(at_).starts_with("**")) return 0;
    return text_[at_++];
  }
  // Of sums, or of products.
  Number series(std::string_view signs) {
    const bool sums = signs == "+-";
    Number value = sums ? series("*/%") : single();
    while (value) {
      const char next = sign(signs);
      if (next == 0) break;
      const Number right = sums ? series("*/%") : single();
      value = right ? computed(next, *value, *right) : Number();
    }
    return value;
  }
  Number single() {
    if (++depth_ > kDeepestExpression) return {};
    const Number value = operand();
    --depth_;
    return value;
  }
  Number operand() {
    if (const char minus = sign("+-")) {
      const Number value = single();
      return value ? computed(minus, 0, *value) : Number();
    }
    if (sign("(")) {
      const Number value = series("+-");
      return sign(")") ? value : Number();
    }
    const bool braces = text_.substr(at_).starts_with("${");
    at_ += braces ? 2 : (at_ < text_.size() && text_[at_] == '$') ? 1 : 0;
    const size_t begin = at_;
    while (at_ < text_.size() && in_name(text_[at_])) ++at_;
    const std::string_view word = text_.substr(begin, at_ - begin);
    if (braces && !sign("}")) return {};
    if (word.empty()) return {};
    if (std::isdigit(static_cast<unsigned char>(word.front())) == 0) return number_of_(word);
    if (word.size() > 1 && word.front() == '0') return {};  // octal
    int64_t value = 0;
    return read_whole(word, value) ? Number(value) : Number();
  }

  std::string_view text_;
  const NumberOf& number_of_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::optional<int64_t> shell_arithmetic(std::string_view expression, const NumberOf& number_of) {
  return Expression(expression, number_of).whole();
}

}  // namespace ridgeline::migrate
