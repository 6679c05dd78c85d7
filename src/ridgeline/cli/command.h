// A command line in the program's own words: commands, their options, and what is wrong with one. The parser library
// behind it is in command.cpp alone: its templates cost more to compile than any command.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
class Option;
}  // namespace CLI

namespace ridgeline::cli {

// The command line makes no sense: message() names the option and what it was given, next_step() says what it takes.
class UsageError : public Error {
  using Error::Error;
};

// What a number of the command line may be, both ends included. Each has one, which the code behind it really carries,
// so that a slip of the finger is an error that names the option and not ten thousand threads. NaN is in no range.
struct Range {
  int64_t first = 0;
  int64_t last = std::numeric_limits<int64_t>::max();
};
struct RealRange {
  double first = 0;
  double last = 0;
};
inline constexpr Range kThreads{0, 4096};        // 0: all processors
inline constexpr Range kThreadRanks{1, 4096};    // ranks that are threads of one process
inline constexpr Range kSequence{1, 1 << 24};    // tokens of a sequence
inline constexpr Range kMicroBatch{1, 1 << 20};  // sequences at once on a rank

// One option of a command, to say more about it. A handle: copies are the same option.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}
  Option required() const;
  Option placeholder(const std::string& name) const;  // what --help calls its value: DIR, FILE, ...
  Option no_default() const;                          // --help does not show the variable's value: it means "not given"
  Option may_be_empty() const;                        // "" is a value; else it is refused, whatever the kind
  Option separated_by(char separator) const;          // several values in one word

 private:
  CLI::Option* option_;
};

// One command. A handle: copies are the same command. Variables must live until the command line has run; they hold the
// defaults, and keep them where an option is not given. Names: "--threads", or "INPUT" for a word at its place.
class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}

  Command subcommand(const std::string& name, const std::string& help) const;
  Command hidden_subcommand(const std::string& name) const;
  void needs_subcommand() const;
  void footer(const std::string& text) const;
  void action(std::function<void()> work) const;  // its errors leave CommandLine::run

  Option flag(const std::string& name, bool& value, const std::string& help) const;
  Option option(const std::string& name, std::string& value, const std::string& help) const;
  Option option(const std::string& name, std::filesystem::path& value, const std::string& help) const;
  Option option(const std::string& name, int32_t& value, Range range, const std::string& help) const;
  Option option(const std::string& name, int64_t& value, Range range, const std::string& help) const;
  Option option(const std::string& name, uint64_t& value, const std::string& help) const;  // any: a seed
  Option option(const std::string& name, double& value, RealRange range, const std::string& help) const;
  Option choice(const std::string& name, std::string& value, const std::vector<std::string>& choices,
                const std::string& help) const;
  // Bytes, with or without a unit: 4096, 512MB, 1.5GiB.
  Option size(const std::string& name, int64_t& value, Range range, const std::string& help) const;
  // Seconds: 90s, 15m, 2h, or 1:30:00 (hours:minutes:seconds, 30:00 without hours).
  Option duration(const std::string& name, double& seconds, const std::string& help) const;
  // One or more values, in one place or by naming the option again.
  Option list(const std::string& name, std::vector<std::string>& values, const std::string& help) const;
  Option list(const std::string& name, std::vector<std::filesystem::path>& values, const std::string& help) const;
  Option list(const std::string& name, std::vector<int32_t>& values, Range range, const std::string& help) const;

 private:
  CLI::App* app_;
};

class CommandLine {
 public:
  // `version`: what --version prints; without one there is no such option.
  CommandLine(const std::string& name, const std::string& description, const std::string& footer,
              std::function<std::string()> version);
  ~CommandLine();

  Command program() const { return Command(app_.get()); }
  std::string help() const;
  // Runs the action of the command that the words name; --help and --version go to standard output. Throws UsageError,
  // with the nearest option or command where one is near, and what the action throws.
  void run(int argc, const char* const* argv);

 private:
  std::string name_;
  std::unique_ptr<CLI::App> app_;
};

}  // namespace ridgeline::cli
