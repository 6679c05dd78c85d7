#include "ridgeline/migrate/python_script.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <string_view>

namespace ridgeline::migrate {
namespace {

bool in_identifier(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// With comments blanked out, so that places stay what they are.
std::string code_of(std::string_view text) {
  std::string code(text);
  char quote = 0;
  for (size_t at = 0; at < code.size(); ++at) {
    const char c = code[at];
    if (c == '\n') {
      quote = 0;
    } else if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '#') {
      for (; at < code.size() && code[at] != '\n'; ++at) code[at] = ' ';
    }
  }
  return code;
}

int64_t line_of(std::string_view text, size_t at) {
  return 1 + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(at), '\n');
}

// The string or name at `at`, blanks skipped: "'gpt2'" -> gpt2 as a literal.
struct Operand {
  std::string text;
  bool literal = false;
};
Operand operand_at(std::string_view text, size_t at) {
  while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at])) != 0) ++at;
  if (at >= text.size()) return {};
  if (text[at] == '"' || text[at] == '\'') {
    const size_t end = text.find(text[at], at + 1);
    if (end == std::string_view::npos) return {};
    return {std::string(text.substr(at + 1, end - at - 1)), true};
  }
  const size_t begin = at;
  while (at < text.size() && in_identifier(text[at])) ++at;
  return {std::string(text.substr(begin, at - begin)), false};
}

// NAME = "literal" at the beginning of a line, or indented.
std::map<std::string, std::string> literals_of(std::string_view code) {
  std::map<std::string, std::string> result;
  for (size_t at = 0; at < code.size();) {
    const size_t end = std::min(code.find('\n', at), code.size());
    const std::string_view row = code.substr(at, end - at);
    const size_t begin = std::min(row.find_first_not_of(" \t"), row.size());
    const Operand name = operand_at(row, begin);
    const size_t equals = row.find_first_not_of(' ', begin + name.text.size());
    if (!name.text.empty() && !name.literal && equals != std::string_view::npos && row[equals] == '=') {
      const Operand value = operand_at(row, equals + 1);
      if (value.literal) result[name.text] = value.text;
    }
    at = end + 1;
  }
  return result;
}

// The text of a call's brackets, from the one at `open` to its partner.
std::string_view call_at(std::string_view code, size_t open) {
  int depth = 0;
  for (size_t at = open; at < code.size(); ++at) {
    if (code[at] == '(') ++depth;
    if (code[at] == ')' && --depth == 0) return code.substr(open, at - open + 1);
  }
  return code.substr(open);
}

void find_models(std::string_view code, PythonScript& script) {
  const std::map<std::string, std::string> literals = literals_of(code);
  constexpr std::string_view kCall = ".from_pretrained(";
  for (size_t at = code.find(kCall); at != std::string_view::npos; at = code.find(kCall, at + 1)) {
    size_t begin = at;
    while (begin > 0 && in_identifier(code[begin - 1])) --begin;
    if (code.substr(begin, at - begin).find("Model") == std::string_view::npos) continue;
    const Operand argument = operand_at(code, at + kCall.size());
    const auto known = literals.find(argument.text);
    if (argument.literal) {
      script.models.push_back({argument.text, line_of(code, at)});
    } else if (known != literals.end()) {
      script.models.push_back({known->second, line_of(code, at)});
    }
  }
}

void find_fsdp(std::string_view code, PythonScript& script) {
  for (const std::string_view name : {std::string_view("FSDP("), std::string_view("FullyShardedDataParallel(")}) {
    const size_t at = code.find(name);
    if (at == std::string_view::npos || (at > 0 && in_identifier(code[at - 1]))) continue;
    const std::string_view call = call_at(code, at + name.size() - 1);
    script.fsdp_line = line_of(code, at);
    script.fsdp_policy = call.find("auto_wrap_policy") != std::string_view::npos;
    script.fsdp_mixed_precision = call.find("mixed_precision") != std::string_view::npos;
  }
}

void find_block_length(std::string_view code, PythonScript& script) {
  for (const std::string_view name : {std::string_view("max_length"), std::string_view("block_size")}) {
    for (size_t at = code.find(name); at != std::string_view::npos; at = code.find(name, at + 1)) {
      const size_t equals = code.find_first_not_of(' ', at + name.size());
      if ((at > 0 && in_identifier(code[at - 1])) || equals == std::string_view::npos || code[equals] != '=') continue;
      int64_t value = 0;
      if (!read_whole(operand_at(code, equals + 1).text, value) || value < 1 || script.block_length > 0) continue;
      script.block_length = value;
      script.block_line = line_of(code, at);
    }
  }
}

}  // namespace

bool PythonScript::reads(const std::string& member) const {
  const std::string wanted = "." + member;
  for (size_t at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + 1)) {
    const size_t end = at + wanted.size();
    if (end >= text.size() || !in_identifier(text[end])) return true;
  }
  return false;
}

PythonScript read_python_script(const Source& source) {
  PythonScript script;
  script.name = source.name;
  script.text = code_of(source.text);
  find_models(script.text, script);
  find_fsdp(script.text, script);
  find_block_length(script.text, script);
  return script;
}

}  // namespace ridgeline::migrate
