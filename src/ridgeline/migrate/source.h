// What a migration reads: texts with names, so that everything said about them can say where.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ridgeline::migrate {

struct Source {
  std::string name;  // as the user knows it, "launch.sh"; its last part is what other sources call it
  std::string text;
};

// A place in a source. Lines count from 1.
struct Origin {
  std::string source;
  int64_t line = 0;

  std::string text() const { return source + ":" + std::to_string(line); }
};

enum class SourceKind : uint8_t { deepspeed_json, python_script, shell_script };
// By content: JSON begins with a brace; Python has imports, definitions or a `#!` that says so; all else is commands.
SourceKind kind_of(const Source& source);

// "runs/launch.sh" -> "launch.sh"
std::string_view file_name(std::string_view path);
// A whole number, the whole text; false leaves `value`.
bool read_whole(std::string_view text, int64_t& value);
// A finite number, likewise.
bool read_number(const std::string& text, double& value);

}  // namespace ridgeline::migrate
