#include "ridgeline/migrate/source.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace ridgeline::migrate {

SourceKind kind_of(const Source& source) {
  const std::string_view text = source.text;
  const size_t first = text.find_first_not_of(" \t\r\n\xef\xbb\xbf");
  if (first == std::string_view::npos) return SourceKind::shell_script;
  if (text[first] == '{' || text[first] == '[') return SourceKind::deepspeed_json;
  if (text.substr(first).starts_with("#!")) {
    const std::string_view program = text.substr(first, text.find('\n', first) - first);
    return program.find("python") != std::string_view::npos ? SourceKind::python_script : SourceKind::shell_script;
  }
  constexpr std::array<std::string_view, 4> kPython = {"import ", "from ", "def ", "class "};
  for (size_t at = first; at < text.size();) {
    for (const std::string_view begin : kPython) {
      if (text.substr(at).starts_with(begin)) return SourceKind::python_script;
    }
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) break;
    at = end + 1;
  }
  return SourceKind::shell_script;
}

std::string_view file_name(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

bool read_whole(std::string_view text, int64_t& value) {
  int64_t parsed = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), parsed);
  if (problem != std::errc() || end != text.data() + text.size() || text.empty()) return false;
  value = parsed;
  return true;
}

bool read_number(const std::string& text, double& value) {
  char* end = nullptr;
  const double parsed = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(parsed)) return false;
  value = parsed;
  return true;
}

}  // namespace ridgeline::migrate
