#include "ridgeline/migrate/shell_text.h"

#include <fmt/format.h>

#include <cctype>

#include "ridgeline/base/error.h"

namespace ridgeline::migrate {
namespace {

std::string without_carriage_returns(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '\r' || at + 1 == text.size() || text[at + 1] != '\n') result += text[at];
  }
  return result;
}

}  // namespace

bool starts_name(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_';
}

bool continues_name(char c) {
  return starts_name(c) || std::isdigit(static_cast<unsigned char>(c)) != 0;
}

bool is_blank(char c) {
  return c == ' ' || c == '\t';
}

ShellText::ShellText(std::string_view text, std::string_view name)
    : text_(without_carriage_returns(text)), name_(name) {}

void ShellText::fail(int64_t line, const std::string& what) const {
  throw Error(fmt::format("{}:{}: {}", name_, line, what), "The shell would not run this script either: mend it.");
}

// A backslash at the end of a line continues it.
void ShellText::join_lines() {
  while (text_.compare(at_, 2, "\\\n") == 0) {
    at_ += 2;
    ++line_;
  }
}

bool ShellText::ended() {
  join_lines();
  return at_ >= text_.size();
}

char ShellText::peek() {
  return ended() ? '\0' : text_[at_];
}

char ShellText::take() {
  join_lines();
  return take_raw();
}

char ShellText::take_raw() {
  if (at_ >= text_.size()) return '\0';
  const char c = text_[at_++];
  if (c == '\n') ++line_;
  return c;
}

bool ShellText::next_is(std::string_view word) {
  join_lines();
  return std::string_view(text_).substr(at_).starts_with(word);
}

void ShellText::skip(size_t count) {
  for (; count > 0; --count) take_raw();
}

void ShellText::blanks() {
  while (!ended() && is_blank(peek())) take();
}

void ShellText::bracketed(char open, char close) {
  const int64_t line = line_;
  int depth = 0;
  while (at_ < text_.size()) {
    const char c = take_raw();
    if (c == '\\' && at_ < text_.size()) {
      take_raw();
    } else if (c == open) {
      ++depth;
    } else if (c == close && --depth == 0) {
      return;
    }
  }
  fail(line, fmt::format("'{}' is never closed", open));
}

}  // namespace ridgeline::migrate
