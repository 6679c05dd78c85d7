#include "ridgeline/migrate/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <span>

#include "ridgeline/base/error.h"

namespace ridgeline::migrate {
namespace {

// "-1" and "-.5" are values.
bool is_flag(std::string_view word) {
  if (word.size() < 2 || word.front() != '-') return false;
  const char next = word[1];
  return std::isdigit(static_cast<unsigned char>(next)) == 0 && next != '.';
}

std::string argparse_name(std::string_view spelling) {
  std::string name(spelling.substr(spelling.starts_with("--") ? 2 : 1));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::vector<Flag> flags_of(std::span<const Word> words, std::string_view source) {
  std::vector<Flag> flags;
  for (const Word& word : words) {
    if (is_flag(word.text)) {
      const size_t equals = word.text.find('=');
      const std::string spelling = word.text.substr(0, equals);
      flags.push_back({argparse_name(spelling), spelling, {}, {std::string(source), word.line}, word.known});
      if (equals != std::string::npos) flags.back().values.push_back(word.text.substr(equals + 1));
    } else if (!flags.empty()) {
      flags.back().values.push_back(word.text);
      flags.back().known = flags.back().known && word.known;
    }
  }
  return flags;
}

bool is_python_file(std::string_view word) {
  return word.ends_with(".py");
}

// A count that one of `names` gives to a launcher: "-n32", "-n 32", "--ntasks=32".
struct Count {
  int64_t value = 0;
  std::string text;
};
Count count_of(std::span<const Word> words, std::span<const std::string_view> names, std::string_view source) {
  Count count;
  for (size_t at = 0; at < words.size(); ++at) {
    const std::string_view word = words[at].text;
    for (const std::string_view name : names) {
      if (!word.starts_with(name)) continue;
      std::string_view rest = word.substr(name.size());
      std::string text(word);
      if (rest.empty() && at + 1 < words.size()) {
        rest = words[at + 1].text;
        text += fmt::format(" {}", rest);
      } else if (rest.starts_with('=')) {
        rest.remove_prefix(1);
      } else if (name.starts_with("--")) {
        continue;
      }
      int64_t value = 0;
      if (read_whole(rest, value) && value > 0)
        count = {value, fmt::format("`{}` ({}:{})", text, source, words[at].line)};
    }
  }
  return count;
}

// Launchers' words, those of #SBATCH first, so that the command's own win.
void count_ranks(Launch& launch, std::span<const Word> words, std::string_view source) {
  using Names = std::vector<std::string_view>;
  const auto count = [&](const Names& names) { return count_of(words, names, source); };
  const auto said = [&](int64_t ranks, const std::string& from) {
    constexpr int64_t kMost = 1 << 20;
    if (ranks < 1 || ranks > kMost) return;
    launch.ranks = ranks;
    launch.ranks_from = from;
  };
  const auto runs = [&](std::string_view program) {
    return std::any_of(words.begin(), words.end(), [&](const Word& word) { return file_name(word.text) == program; });
  };
  const Count nodes = count({"-N", "--nodes", "--nnodes", "--num_nodes", "--num-nodes", "--num_machines"});
  const Count per_node = count({"--ntasks-per-node", "--tasks-per-node", "--ppn", "-ppn"});
  const Count processes = count({"--nproc_per_node", "--nproc-per-node", "--num_gpus", "--num-gpus"});
  const Count tasks = count({"-n", "--ntasks", "-np", "--np"});
  constexpr int64_t kCountable = 1 << 20;
  if (nodes.value > kCountable || per_node.value > kCountable || processes.value > kCountable) return;
  if (processes.value > 0) {
    const int64_t hosts = std::max<int64_t>(nodes.value, 1);
    said(hosts * processes.value, nodes.text.empty() ? processes.text : nodes.text + " x " + processes.text);
  } else if (tasks.value > 0) {
    said(tasks.value, tasks.text);
  } else if (nodes.value > 0 && per_node.value > 0) {
    said(nodes.value * per_node.value, nodes.text + " x " + per_node.text);
  } else if (runs("accelerate")) {
    const Count all = count({"--num_processes"});
    said(all.value, all.text);
  } else if (runs("srun") && nodes.value > 0) {
    said(nodes.value, nodes.text);
  }
}

}  // namespace

std::string Flag::text() const {
  std::string text = spelling;
  for (const std::string& value : values)
    text += value.find(' ') == std::string::npos && !value.empty() ? " " + value : fmt::format(" \"{}\"", value);
  constexpr size_t kLongest = 100;
  if (text.size() > kLongest) text = text.substr(0, kLongest - 3) + "...";
  return text;
}

std::string Flag::where() const {
  return fmt::format("`{}` ({})", text(), origin.text());
}

const Flag* Arguments::find(std::string_view name) {
  const Flag* found = nullptr;
  for (size_t at = 0; at < flags_.size(); ++at) {
    if (flags_[at].name != name) continue;
    read_[at] = true;
    found = &flags_[at];
  }
  return found != nullptr && found->known ? found : nullptr;
}

bool Arguments::has(std::string_view name) const {
  return std::any_of(flags_.begin(), flags_.end(), [&](const Flag& flag) { return flag.name == name; });
}

bool Arguments::truth(std::string_view name) {
  const Flag* const flag = find(name);
  if (flag == nullptr) return false;
  constexpr std::array<std::string_view, 6> kNo = {"False", "false", "0", "no", "No", "off"};
  return std::find(kNo.begin(), kNo.end(), flag->value()) == kNo.end();
}

std::optional<int64_t> Arguments::whole(std::string_view name) {
  const Flag* const flag = find(name);
  if (flag == nullptr) return {};
  int64_t value = 0;
  if (read_whole(flag->value(), value)) return value;
  throw Error(fmt::format("{}: {}: a whole number is expected", flag->origin.text(), flag->text()),
              "The program that reads it would refuse it, too: correct the script.");
}

std::optional<double> Arguments::number(std::string_view name) {
  const Flag* const flag = find(name);
  if (flag == nullptr) return {};
  double value = 0;
  if (read_number(flag->value(), value)) return value;
  throw Error(fmt::format("{}: {}: a number is expected", flag->origin.text(), flag->text()),
              "The program that reads it would refuse it, too: correct the script.");
}

std::optional<std::string> Arguments::word(std::string_view name) {
  const Flag* const flag = find(name);
  return flag == nullptr ? std::nullopt : std::optional(flag->value());
}

std::vector<const Flag*> Arguments::unread() const {
  std::vector<const Flag*> result;
  for (size_t at = 0; at < flags_.size(); ++at) {
    if (!read_[at]) result.push_back(&flags_[at]);
  }
  return result;
}

std::vector<std::vector<const Flag*>> Arguments::repeated() const {
  std::map<std::string, std::vector<const Flag*>> by_name;
  for (const Flag& flag : flags_) by_name[flag.name].push_back(&flag);
  std::vector<std::vector<const Flag*>> result;
  for (const auto& each : by_name) {
    const std::vector<const Flag*>& flags = each.second;
    const bool differ = std::any_of(flags.begin(), flags.end(),
                                    [&](const Flag* flag) { return flag->values != flags.front()->values; });
    if (differ) result.push_back(flags);
  }
  return result;
}

std::vector<const Flag*> Arguments::unevaluated() const {
  std::vector<const Flag*> result;
  for (size_t at = 0; at < flags_.size(); ++at) {
    if (read_[at] && !flags_[at].known) result.push_back(&flags_[at]);
  }
  return result;
}

void Arguments::rename(const Flag& flag, std::string name) {
  flags_[static_cast<size_t>(&flag - flags_.data())].name = std::move(name);
}

std::vector<Launch> launches_of(const ShellScript& script, std::string_view source) {
  std::vector<Word> slurm;
  for (const ShellCommand& directive : script.directives)
    slurm.insert(slurm.end(), directive.words.begin(), directive.words.end());
  std::vector<Launch> launches;
  for (const ShellCommand& command : script.commands) {
    const std::span<const Word> words = command.words;
    const auto file =
        std::find_if(words.begin(), words.end(), [](const Word& word) { return is_python_file(word.text); });
    if (words.front().text == "echo" || words.front().text == "printf") continue;
    const bool bare = words.front().text.starts_with("--");
    if (file == words.end() && !bare) continue;
    Launch launch{.origin = {std::string(source), command.line}};
    const size_t before = bare ? 0 : static_cast<size_t>(file - words.begin());
    if (!bare) launch.script = file->text;
    launch.flags = flags_of(words.subspan(bare ? 0 : before + 1), source);
    std::vector<Word> launcher = slurm;
    launcher.insert(launcher.end(), words.begin(), words.begin() + static_cast<ptrdiff_t>(before));
    count_ranks(launch, launcher, source);
    if (!launch.flags.empty()) launches.push_back(std::move(launch));
  }
  return launches;
}

}  // namespace ridgeline::migrate
