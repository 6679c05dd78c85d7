// A DeepSpeed configuration: JSON, whose values are asked for by path ("fp16.loss_scale") and know their line.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/migrate/source.h"

namespace ridgeline::migrate {

// What is asked for counts as read; what nobody asks for is unknown.
class DeepSpeedJson {
 public:
  // Error with file and line for what is no JSON, or no JSON object.
  explicit DeepSpeedJson(const Source& source);

  const std::string& name() const { return name_; }
  bool has(const std::string& path) const { return at(path) != nullptr; }
  // The string "auto", which Hugging Face fills in.
  bool is_auto(const std::string& path);
  // Nothing when it is not there or "auto". Error with the line for a value of another type.
  std::optional<double> number(const std::string& path);
  std::optional<int64_t> whole(const std::string& path);
  std::optional<bool> truth(const std::string& path);
  std::optional<std::string> word(const std::string& path);

  // "`fp16.loss_scale: 0` (ds.json:4)"
  std::string where(const std::string& path) const;
  Origin origin(const std::string& path) const;
  void mark_read(const std::string& path) { read_.insert(path); }
  // Of all single values (lists count as one), in the order of the file.
  const std::vector<std::string>& paths() const { return paths_; }
  // Those of which nobody asked for one.
  std::vector<std::string> unread() const;

 private:
  const nlohmann::json* at(const std::string& path) const;
  [[noreturn]] void wrong_type(const std::string& path, const char* expected) const;
  void list(const nlohmann::json& value, const std::string& path);

  std::string name_;
  nlohmann::json json_;
  std::vector<std::string> paths_;
  std::map<std::string, int64_t, std::less<>> lines_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace ridgeline::migrate
