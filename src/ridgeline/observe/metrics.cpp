#include "ridgeline/observe/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"

namespace ridgeline::observe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kReserved = 8192;

void append_text(std::string& line, std::string_view text) {
  line += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      line += '\\';
      line += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      fmt::format_to(std::back_inserter(line), "\\u{:04x}", static_cast<unsigned>(c));
    } else {
      line += c;
    }
  }
  line += '"';
}

void append_value(std::string& line, double value) {
  if (std::isnan(value)) {
    line += "\"NaN\"";
  } else if (std::isinf(value)) {
    line += value > 0 ? "\"Infinity\"" : "\"-Infinity\"";
  } else {
    fmt::format_to(std::back_inserter(line), "{}", value);  // shortest text that reads back to the same double
  }
}
void append_value(std::string& line, int64_t value) {
  fmt::format_to(std::back_inserter(line), "{}", value);
}
void append_value(std::string& line, bool value) {
  line += value ? "true" : "false";
}
void append_value(std::string& line, std::string_view value) {
  append_text(line, value);
}

void append_field(std::string& line, const Field& field) {
  append_text(line, field.key);
  line += ": ";
  std::visit([&](const auto& value) { append_value(line, value); }, field.value);
}

// What of an old file belongs before step `step`: its whole lines without the records of later steps.
std::string records_up_to(std::string_view text, int64_t step, const fs::path& path) {
  std::string kept;
  int number = 0;
  bool complete = false;  // the record of `step` was seen
  while (!text.empty()) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) break;  // cut while it was written
    const std::string_view line = text.substr(0, end + 1);
    text.remove_prefix(end + 1);
    ++number;
    const json record = parse_json_if_any(line);
    if (!record.is_object()) {
      if (complete) break;
      throw Error(fmt::format("'{}', line {}: no JSON object", path.string(), number),
                  "Repair or remove the line, or move the file away to begin a new one.");
    }
    const auto found = record.find("step");
    if (found != record.end() && found->is_number_integer()) {
      if (found->get<int64_t>() > step) continue;
      complete = complete || found->get<int64_t>() == step;
    }
    kept += line;
  }
  return kept;
}

}  // namespace

MetricsLog::MetricsLog(File file, int64_t end) : file_(std::move(file)), end_(end) {
  line_.reserve(kReserved);
}

MetricsLog MetricsLog::create(const fs::path& path) {
  return {File(path, File::Mode::create), 0};
}

MetricsLog MetricsLog::resume(const fs::path& path, int64_t step) {
  if (!fs::exists(path)) return create(path);
  std::string old = read_text(path);
  const std::string kept = records_up_to(old, step, path);
  // Replaced as a whole, so that an interruption here loses nothing.
  if (kept.size() != old.size()) write_atomically(path, kept);
  return {File(path, File::Mode::update), static_cast<int64_t>(kept.size())};
}

void MetricsLog::amend(int64_t step, std::span<const Field> fields) {
  std::string text = read_text(path());
  text.resize(static_cast<size_t>(std::min<int64_t>(end_, static_cast<int64_t>(text.size()))));
  const size_t begin = text.size() < 2 ? 0 : text.rfind('\n', text.size() - 2) + 1;  // npos + 1 is 0
  const json record = parse_json_if_any(std::string_view(text).substr(begin));
  if (!record.is_object() || record.value("step", json()) != json(step)) return;
  text.resize(text.rfind('}'));
  for (const Field& field : fields) {
    if (record.contains(field.key)) continue;
    text += ", ";  // behind "step"
    append_field(text, field);
  }
  text += "}\n";
  write_atomically(path(), text);
  file_ = File(path(), File::Mode::update);
  end_ = static_cast<int64_t>(text.size());
}

void MetricsLog::write(std::span<const Field> fields) {
  line_.clear();
  line_ += '{';
  for (const Field& field : fields) {
    if (line_.size() > 1) line_ += ", ";
    append_field(line_, field);
  }
  line_ += "}\n";
  file_.write_at(end_, bytes_of(std::string_view(line_)));
  end_ += static_cast<int64_t>(line_.size());
}

}  // namespace ridgeline::observe
