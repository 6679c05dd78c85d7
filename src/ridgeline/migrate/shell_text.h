// The characters of a shell script, one after the other, with continued lines joined and lines counted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ridgeline::migrate {

bool starts_name(char c);
bool continues_name(char c);
bool is_blank(char c);

class ShellText {
 public:
  // `name` is for errors. A carriage return before a line's end is none of its characters.
  ShellText(std::string_view text, std::string_view name);

 protected:
  // Error at a line.
  [[noreturn]] void fail(int64_t line, const std::string& what) const;
  bool ended();  // nothing is left
  char peek();   // the next character; 0 at the end
  char take();
  // Whether the rest begins so.
  bool next_is(std::string_view word);
  // As take(), but a backslash at a line's end is itself.
  char take_raw();
  void skip(size_t count);
  void blanks();
  // From an opening bracket, which is next, past its partner. Error when there is none.
  void bracketed(char open, char close);

  std::string text_;
  std::string name_;
  size_t at_ = 0;
  int64_t line_ = 1;

 private:
  void join_lines();
};

}  // namespace ridgeline::migrate
