#include "ridgeline/cli/command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

namespace ridgeline::cli {
namespace {

// A user's mistake in the value of `option`. CLI11 says where it happened: the command is known only there.
[[noreturn]] void refuse(const std::string& option, const std::string& what) {
  throw CLI::ValidationError(option, what);
}

std::string to_text(Range range) {
  if (range.last == std::numeric_limits<int64_t>::max()) return fmt::format("{} or more", range.first);
  return fmt::format("{} to {}", range.first, range.last);
}
std::string to_text(RealRange range) {
  return fmt::format("{} to {}", range.first, range.last);
}

// The help of an option, with what it takes where that is not obvious.
template <typename Limits>
std::string with_range(const std::string& help, Limits range) {
  return help.empty() ? help : fmt::format("{} ({})", help, to_text(range));
}
std::string with_range(const std::string& help, Range range) {
  const bool any = range.first == 0 && range.last == std::numeric_limits<int64_t>::max();
  return any ? help : with_range<Range>(help, range);
}

// Whether all of `text` is a number of this type; `value` is then it. `too_large`: it is a number, but no such type's.
template <typename T>
bool read_number(std::string_view text, T& value, bool& too_large) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  const std::from_chars_result result = std::from_chars(text.data(), text.data() + text.size(), value);
  too_large = result.ec == std::errc::result_out_of_range;
  return !text.empty() && (result.ec == std::errc() || too_large) && result.ptr == text.data() + text.size();
}

int64_t whole_number(const std::string& option, const std::string& text, Range range) {
  int64_t value = 0;
  bool too_large = false;
  if (!read_number(text, value, too_large))
    refuse(option, fmt::format("'{}' is no whole number ({})", text, to_text(range)));
  if (too_large || value < range.first || value > range.last)
    refuse(option, fmt::format("{} is out of range: {}", text, to_text(range)));
  return value;
}

uint64_t unsigned_number(const std::string& option, const std::string& text) {
  uint64_t value = 0;
  bool too_large = false;
  const std::string range = fmt::format("0 to {}", std::numeric_limits<uint64_t>::max());
  if (!read_number(text, value, too_large)) refuse(option, fmt::format("'{}' is no whole number from {}", text, range));
  if (too_large) refuse(option, fmt::format("{} is out of range: {}", text, range));
  return value;
}

double real_number(const std::string& option, const std::string& text, RealRange range) {
  double value = 0;
  bool too_large = false;
  if (!read_number(text, value, too_large) || std::isnan(value))
    refuse(option, fmt::format("'{}' is no number ({})", text, to_text(range)));
  if (too_large || !(value >= range.first && value <= range.last))
    refuse(option, fmt::format("{} is out of range: {}", text, to_text(range)));
  return value;
}

struct Unit {
  std::string_view name;
  double bytes;
};
constexpr std::array kUnits = {Unit{"", 1},
                               Unit{"b", 1},
                               Unit{"k", 1e3},
                               Unit{"kb", 1e3},
                               Unit{"m", 1e6},
                               Unit{"mb", 1e6},
                               Unit{"g", 1e9},
                               Unit{"gb", 1e9},
                               Unit{"t", 1e12},
                               Unit{"tb", 1e12},
                               Unit{"kib", 1024.0},
                               Unit{"mib", 1048576.0},
                               Unit{"gib", 1073741824.0},
                               Unit{"tib", 1099511627776.0}};

int64_t bytes(const std::string& option, const std::string& text, Range range) {
  size_t digits = 0;
  while (digits < text.size() && (std::isdigit(static_cast<unsigned char>(text[digits])) != 0 || text[digits] == '.'))
    ++digits;
  std::string unit = text.substr(digits);
  unit.erase(0, unit.find_first_not_of(' '));
  for (char& letter : unit) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  double value = 0;
  bool too_large = false;
  for (const Unit& known : kUnits) {
    if (unit != known.name || !read_number(std::string_view(text).substr(0, digits), value, too_large)) continue;
    value = std::floor(value * known.bytes);
    if (too_large || value < static_cast<double>(range.first) || value >= 0x1p63 ||
        static_cast<int64_t>(value) > range.last)
      refuse(option, fmt::format("{} is out of range: {} bytes", text, to_text(range)));
    return static_cast<int64_t>(value);
  }
  refuse(option, fmt::format("'{}' is no size such as 4096, 512MB or 64GiB", text));
}

double seconds_of(const std::string& option, const std::string& text) {
  double seconds = 0, value = 0;
  bool too_large = false;
  const size_t colon = text.find(':');
  const std::string units = "smh";
  if (const size_t unit = text.empty() ? std::string::npos : units.find(text.back()); unit != std::string::npos) {
    if (read_number(std::string_view(text).substr(0, text.size() - 1), value, too_large))
      seconds = value * std::pow(60.0, static_cast<double>(unit));
  } else if (colon != std::string::npos) {
    int parts = 0;
    for (size_t at = 0; at <= text.size(); ++parts) {
      const size_t end = std::min(text.find(':', at), text.size());
      int64_t part = 0;
      if (parts == 3 || !read_number(std::string_view(text).substr(at, end - at), part, too_large) || part < 0 ||
          (parts > 0 && part > 59))
        refuse(option, fmt::format("'{}' is no time such as 1:30:00 or 30:00", text));
      seconds = 60 * seconds + static_cast<double>(part);
      at = end + 1;
    }
  }
  if (too_large || !(seconds > 0) || seconds > 1e9)
    refuse(option, fmt::format("'{}' is no time such as 90s, 15m, 2h or 1:30:00", text));
  return seconds;
}

constexpr const char* kNotEmpty = "not empty";

// Every kind of option comes down to this: `take` gets the words that it was given, none of them empty.
Option add(CLI::App* app, const std::string& name, const std::string& help, const char* placeholder,
           std::function<void(const std::vector<std::string>&)> take, std::function<std::string()> show) {
  CLI::Option* option = app->add_option(name, CLI::callback_t([take = std::move(take)](const CLI::results_t& words) {
                                          take(words);
                                          return true;
                                        }),
                                        help, false, std::move(show));
  option->type_name(placeholder)->run_callback_for_default()->capture_default_str();
  option->check(
      [](const std::string& word) {
        return word.empty() ? "its value is empty: a variable of the shell is probably not set" : "";
      },
      "", kNotEmpty);
  return Option(option);
}

Option add_list(CLI::App* app, const std::string& name, const std::string& help, const char* placeholder,
                std::function<void(const std::vector<std::string>&)> take, std::function<std::string()> show) {
  const Option added = add(app, name, help, placeholder, std::move(take), std::move(show));
  app->get_option(name)->expected(CLI::detail::expected_max_vector_size)->take_all();
  return added;
}

// "ridgeline tokenizer train": the innermost subcommand that was understood.
const CLI::App& innermost(const CLI::App& app, std::string& path) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
    path += " " + command->get_name();
  }
  return *command;
}

std::vector<std::string> names_of_subcommands(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* sub : command.get_subcommands([](const CLI::App* one) { return !one->get_group().empty(); }))
    names.push_back(sub->get_name());
  return names;
}

std::vector<std::string> words_of(const CLI::App& command) {
  std::vector<std::string> words = names_of_subcommands(command);
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
  }
  return words;
}

// Whether the words end with a list of values: it takes a `--` behind them for its own end.
bool end_with_list(const CLI::App& app, const std::vector<std::string>& words) {
  const CLI::App* command = &app;
  const CLI::Option* last = nullptr;
  for (const std::string& word : words) {
    if (word.starts_with("-")) {
      last = command->get_option_no_throw(word.substr(0, word.find('=')));
    } else if (last == nullptr) {
      for (const CLI::App* sub : command->get_subcommands([&](const CLI::App* one) { return one->get_name() == word; }))
        command = sub;
    }
  }
  return last != nullptr && last->get_items_expected_max() >= CLI::detail::expected_max_vector_size;
}

// "--out=" as "--out" and "": the library would take the word behind it for its value.
std::vector<std::string> with_empty_values(std::vector<std::string> words) {
  for (size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
    if (!words[i].starts_with("--") || words[i].find('=') != words[i].size() - 1) continue;
    words[i].pop_back();
    words.insert(words.begin() + static_cast<ptrdiff_t>(++i), "");
  }
  return words;
}

UsageError explain(const CLI::App& app, const std::string& name, const CLI::ParseError& error) {
  std::string path = name, hint;
  const CLI::App& command = innermost(app, path);
  std::string what = error.what();
  while (!what.empty() && what.back() == '\n') what.pop_back();
  if (const std::vector<std::string> names = names_of_subcommands(command);
      error.get_name() == "RequiredError" && !names.empty())
    what = fmt::format("{}: say which: {}", path, fmt::join(names, " | "));
  std::vector<std::string> extras = app.remaining(true);
  std::erase(extras, "--");  // which was understood
  if (!extras.empty()) {
    what = fmt::format("{}: {} does not take this", extras.front().empty() ? "\"\"" : extras.front(), path);
    const std::string word = extras.front().substr(0, extras.front().find('='));
    if (const std::string guess = nearest(word, words_of(command)); !guess.empty())
      hint = fmt::format("Did you mean {}? ", guess);
  }
  return UsageError(what, fmt::format("{}`{} --help` shows its options.", hint, path));
}

}  // namespace

Option Option::required() const {
  option_->required()->default_str("");
  return *this;
}

Option Option::placeholder(const std::string& name) const {
  option_->type_name(name);
  return *this;
}

Option Option::no_default() const {
  option_->default_str("");
  return *this;
}

Option Option::may_be_empty() const {
  option_->get_validator(kNotEmpty)->active(false);
  return *this;
}

Option Option::separated_by(char separator) const {
  option_->delimiter(separator);
  return *this;
}

Command Command::subcommand(const std::string& name, const std::string& help) const {
  CLI::App* const command = app_->add_subcommand(name, help);
  command->footer("");  // not the one of the command above it, which CLI11 passes on
  return Command(command);
}

Command Command::hidden_subcommand(const std::string& name) const {
  return Command(app_->add_subcommand(name, "")->group(""));
}

void Command::needs_subcommand() const {
  app_->require_subcommand(1);
}

void Command::footer(const std::string& text) const {
  app_->footer(text);
}

void Command::action(std::function<void()> work) const {
  app_->callback(std::move(work));
}

Option Command::flag(const std::string& name, bool& value, const std::string& help) const {
  return Option(app_->add_flag(name, value, help));
}

Option Command::option(const std::string& name, std::string& value, const std::string& help) const {
  return add(
      app_, name, help, "TEXT", [&value](const auto& words) { value = words.front(); }, [&value] { return value; });
}

Option Command::option(const std::string& name, std::filesystem::path& value, const std::string& help) const {
  return add(
      app_, name, help, "PATH", [&value](const auto& words) { value = words.front(); },
      [&value] { return value.string(); });
}

Option Command::option(const std::string& name, int32_t& value, Range range, const std::string& help) const {
  range.first = std::max<int64_t>(range.first, std::numeric_limits<int32_t>::min());
  range.last = std::min<int64_t>(range.last, std::numeric_limits<int32_t>::max());
  return add(
      app_, name, with_range(help, range), "N",
      [&value, name, range](const auto& words) {
        value = static_cast<int32_t>(whole_number(name, words.front(), range));
      },
      [&value] { return std::to_string(value); });
}

Option Command::option(const std::string& name, int64_t& value, Range range, const std::string& help) const {
  return add(
      app_, name, with_range(help, range), "N",
      [&value, name, range](const auto& words) { value = whole_number(name, words.front(), range); },
      [&value] { return std::to_string(value); });
}

Option Command::option(const std::string& name, uint64_t& value, const std::string& help) const {
  return add(
      app_, name, help, "N", [&value, name](const auto& words) { value = unsigned_number(name, words.front()); },
      [&value] { return std::to_string(value); });
}

Option Command::option(const std::string& name, double& value, RealRange range, const std::string& help) const {
  return add(
      app_, name, with_range(help, range), "NUMBER",
      [&value, name, range](const auto& words) { value = real_number(name, words.front(), range); },
      [&value] { return fmt::format("{}", value); });
}

Option Command::choice(const std::string& name, std::string& value, const std::vector<std::string>& choices,
                       const std::string& help) const {
  return add(
      app_, name, help, fmt::format("{}", fmt::join(choices, "|")).c_str(),
      [&value, name, choices](const auto& words) {
        if (std::find(choices.begin(), choices.end(), words.front()) == choices.end())
          refuse(name, fmt::format("'{}' is none of {}", words.front(), fmt::join(choices, ", ")));
        value = words.front();
      },
      [&value] { return value; });
}

Option Command::size(const std::string& name, int64_t& value, Range range, const std::string& help) const {
  return add(
      app_, name, help, "SIZE", [&value, name, range](const auto& words) { value = bytes(name, words.front(), range); },
      [&value] { return std::to_string(value); });
}

Option Command::duration(const std::string& name, double& seconds, const std::string& help) const {
  return add(
      app_, name, help, "TIME", [&seconds, name](const auto& words) { seconds = seconds_of(name, words.front()); },
      [] { return std::string(); });
}

Option Command::list(const std::string& name, std::vector<std::string>& values, const std::string& help) const {
  return add_list(
      app_, name, help, "TEXT", [&values](const auto& words) { values = words; },
      [&values] { return fmt::format("{}", fmt::join(values, ",")); });
}

Option Command::list(const std::string& name, std::vector<std::filesystem::path>& values,
                     const std::string& help) const {
  return add_list(
      app_, name, help, "PATH", [&values](const auto& words) { values.assign(words.begin(), words.end()); },
      [] { return std::string(); });
}

Option Command::list(const std::string& name, std::vector<int32_t>& values, Range range,
                     const std::string& help) const {
  range.last = std::min<int64_t>(range.last, std::numeric_limits<int32_t>::max());
  return add_list(
      app_, name, help, "N",
      [&values, name, range](const auto& words) {
        values.clear();
        for (const std::string& word : words) values.push_back(static_cast<int32_t>(whole_number(name, word, range)));
      },
      [] { return std::string(); });
}

CommandLine::CommandLine(const std::string& name, const std::string& description, const std::string& footer,
                         std::function<std::string()> version)
    : name_(name), app_(std::make_unique<CLI::App>(description, name)) {
  app_->footer(footer);
  if (version) app_->set_version_flag("--version", std::move(version), "Version, build, backends, libraries, CPU");
  app_->get_formatter()->column_width(26);
  app_->require_subcommand(0, 1);
}

CommandLine::~CommandLine() = default;

std::string CommandLine::help() const {
  return app_->help();
}

void CommandLine::run(int argc, const char* const* argv) {
  std::vector<std::string> words = with_empty_values({argv + 1, argv + argc});
  const auto mark = std::find(words.begin(), words.end(), "--");
  if (mark != words.end() && end_with_list(*app_, {words.begin(), mark})) words.insert(mark, "--");
  std::reverse(words.begin(), words.end());  // as the library has it
  try {
    app_->parse(words);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != static_cast<int>(CLI::ExitCodes::Success)) throw explain(*app_, name_, error);
    app_->exit(error);  // --help, --version
  }
}

}  // namespace ridgeline::cli
