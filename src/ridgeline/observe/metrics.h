// metrics.jsonl: one JSON object per line and step, written whole and at once, so that a reader following the file
// never sees half a record of a running job.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "ridgeline/base/file.h"

namespace ridgeline::observe {

// One key and its value. The key is written as given; text is escaped. JSON has no NaN or infinity: they are written as
// the strings "NaN", "Infinity", "-Infinity".
struct Field {
  std::string_view key;
  std::variant<int64_t, double, bool, std::string_view> value;

  Field() = default;
  Field(std::string_view k, double v) : key(k), value(v) {}
  Field(std::string_view k, float v) : key(k), value(double{v}) {}
  Field(std::string_view k, int64_t v) : key(k), value(v) {}
  Field(std::string_view k, int v) : key(k), value(int64_t{v}) {}
  Field(std::string_view k, bool v) : key(k), value(v) {}
  Field(std::string_view k, std::string_view v) : key(k), value(v) {}
  Field(std::string_view k, const char* v) : key(k), value(std::string_view(v)) {}
};

class MetricsLog {
 public:
  // A new file; an old one is emptied.
  static MetricsLog create(const std::filesystem::path& path);
  // Continues a run at `step`: records of later steps, and a last line that was cut, are removed; a file that does not
  // exist is created. A record without "step" stays. A line that is no JSON object is an Error with its number, unless
  // it stands behind the record of `step`: what a machine that lost its power left there is removed, too.
  static MetricsLog resume(const std::filesystem::path& path, int64_t step);

  // Writes one record with its keys in the order given. Allocates nothing once a record of this length was written (8
  // KiB are reserved).
  void write(std::span<const Field> fields);
  void write(std::initializer_list<Field> fields) { write(std::span<const Field>(fields.begin(), fields.size())); }

  // Adds fields to the last record, if that is one of `step`; those whose key it has already stay as they are. The file
  // is replaced as a whole. For what is measured long after.
  void amend(int64_t step, std::span<const Field> fields);

  // On return what was written is on the device.
  void sync() { file_.sync(); }

  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MetricsLog(File file, int64_t end);
  File file_;
  int64_t end_ = 0;
  std::string line_;
};

}  // namespace ridgeline::observe
