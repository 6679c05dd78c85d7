// The command of a launch script that starts training: which flags it was given, in the end, and on how many ranks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/migrate/shell_script.h"
#include "ridgeline/migrate/source.h"

namespace ridgeline::migrate {

struct Flag {
  std::string name;      // "per_device_train_batch_size": as argparse knows it, with underscores
  std::string spelling;  // "--per-device-train-batch-size"
  std::vector<std::string> values;
  Origin origin;
  bool known = true;  // false: a value could not be evaluated

  std::string value() const { return values.empty() ? "" : values.front(); }
  std::string text() const;   // "--lr 2e-4"
  std::string where() const;  // "`--lr 2e-4` (launch.sh:31)"
};

// The flags of one command. What is asked for counts as read; what nobody asks for is unknown.
class Arguments {
 public:
  Arguments() = default;
  explicit Arguments(std::vector<Flag> flags) : flags_(std::move(flags)), read_(flags_.size(), false) {}

  // The last one of that name, as argparse takes it; null when it was not given, or when its value is not known (which
  // `unevaluated` then lists).
  const Flag* find(std::string_view name);
  bool has(std::string_view name) const;
  // Given, and not as `--name False`.
  bool truth(std::string_view name);
  // Error that names the place when the value is something else.
  std::optional<int64_t> whole(std::string_view name);
  std::optional<double> number(std::string_view name);
  std::optional<std::string> word(std::string_view name);

  const std::vector<Flag>& all() const { return flags_; }
  std::vector<const Flag*> unread() const;
  // Of every name that was given more than once with different values: all of them, the last one winning.
  std::vector<std::vector<const Flag*>> repeated() const;
  // Flags that were asked for, and whose value only a running shell knows.
  std::vector<const Flag*> unevaluated() const;
  // A flag that argparse would complete to `name`: gets that name.
  void rename(const Flag& flag, std::string name);

 private:
  std::vector<Flag> flags_;
  std::vector<bool> read_;
};

struct Launch {
  std::string script;  // "pretrain_gpt.py"; "" for bare flags
  Origin origin;       // of the command
  std::vector<Flag> flags;
  int64_t ranks = 0;       // 0: not said
  std::string ranks_from;  // "-n32 (launch.sh:60)"
};

// Every command that starts a Python program with flags, or consists of flags.
std::vector<Launch> launches_of(const ShellScript& script, std::string_view source);

}  // namespace ridgeline::migrate
