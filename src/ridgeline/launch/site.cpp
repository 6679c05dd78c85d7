#include "ridgeline/launch/site.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <variant>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/words.h"

namespace ridgeline::launch {
namespace {

using Slot = std::variant<int64_t*, double*, bool*, std::string*, std::vector<std::string>*, Use*>;

// A key of the file, of a group or of an entry of a list.
struct Field {
  std::string_view name;
  Slot slot;
  bool required = false;
  double low = 0, high = 1e9;
};

std::vector<Field> top_fields(Site& site) {
  return {{"name", &site.name, true},
          {"about", &site.about, true},
          {"source", &site.source, true},
          {"modules", &site.modules}};
}
std::vector<Field> fields_of(Site::Node& node) {
  return {{"cores", &node.cores, true, 1, 4096},     {"cpus_per_core", &node.cpus_per_core, false, 1, 16},
          {"ranks", &node.ranks, true, 1, 4096},     {"devices", &node.devices, false, 0, 1024},
          {"memory", &node.memory, true, 1},         {"device_memory", &node.device_memory},
          {"teraflops", &node.teraflops, true, 1e-3}};
}
std::vector<Field> fields_of(Site::Links& links) {
  return {{"inside", &links.inside, true, 1e-3}, {"between", &links.between, true, 1e-3}};
}
std::vector<Field> fields_of(Site::Slurm& slurm) {
  return {{"partition", &slurm.partition},
          {"qos", &slurm.qos},
          {"account", &slurm.account},
          {"needs_account", &slurm.needs_account},
          {"mpi", &slurm.mpi},
          {"signal_before", &slurm.signal_before, false, 1, 86400}};
}
std::vector<Field> fields_of(TimeLimit& limit) {
  return {{"nodes", &limit.nodes, true, 1}, {"hours", &limit.hours, true, 1e-3}};
}
std::vector<Field> fields_of(SlurmOption& option) {
  return {{"option", &option.option, true}, {"why", &option.why, true}, {"for", &option.use}};
}
std::vector<Field> fields_of(Variable& variable) {
  return {{"name", &variable.name, true},
          {"value", &variable.value, true},
          {"why", &variable.why, true},
          {"for", &variable.use}};
}

constexpr std::array<std::string_view, 3> kGroups = {"node", "links", "slurm"};
constexpr std::array<std::string_view, 4> kLists = {"limit", "sbatch", "srun", "environment"};

// False when the node holds something else.
struct Setter {
  const toml::node& node;
  template <typename T>
  bool take(T* target) const {
    const std::optional<T> value = node.value_exact<T>();
    if (value) *target = *value;
    return value.has_value();
  }
  bool operator()(int64_t* target) const { return take(target); }
  bool operator()(bool* target) const { return take(target); }
  bool operator()(std::string* target) const { return take(target); }
  bool operator()(double* target) const {
    if (node.is_number()) *target = *node.value<double>();
    return node.is_number();
  }
  bool operator()(std::vector<std::string>* target) const {
    if (!node.is_array()) return false;
    for (const toml::node& entry : *node.as_array()) {
      if (!entry.is_string()) return false;
      target->push_back(*entry.value<std::string>());
    }
    return true;
  }
  bool operator()(Use* target) const {
    const std::optional<Use> use = of_word<Use>(node.value_exact<std::string>().value_or(""));
    if (use) *target = *use;
    return use.has_value();
  }
};

std::string expected(const Slot& slot) {
  if (std::holds_alternative<Use*>(slot)) return fmt::format("\"{}\"", fmt::join(words_of(Use{}), "\" or \""));
  constexpr std::array kNames = {"a whole number", "a number", "true or false", "a string", "a list of strings"};
  return kNames.at(slot.index());
}

// A file being read.
class Reader {
 public:
  explicit Reader(std::string_view source) : source_(source) {}

  // Every key of `table` is one of `fields` or of `others`, which somebody else reads. `name`: of the table, "" at the
  // top.
  void read(const toml::table& table, const std::string& name, const std::vector<Field>& fields,
            std::span<const std::string_view> others = {}) const {
    std::vector<std::string> known(others.begin(), others.end());
    for (const Field& field : fields) known.emplace_back(field.name);
    for (const auto& [key, node] : table) {
      const std::string given(key.str());
      const auto field = std::find_if(fields.begin(), fields.end(), [&](const Field& f) { return f.name == given; });
      if (field != fields.end()) {
        set(*field, full(name, given), node);
      } else if (std::find(known.begin(), known.end(), given) == known.end()) {
        const std::string guess = nearest(given, known);
        fail(key.source(), full(name, given), "no such key",
             guess.empty() ? fmt::format("Keys here: {}.", fmt::join(known, ", "))
                           : fmt::format("Did you mean {}?", full(name, guess)));
      }
    }
    for (const Field& field : fields) {
      if (field.required && !table.contains(field.name))
        fail(table.source(), full(name, field.name), "missing", fmt::format("Give it {}.", expected(field.slot)));
    }
  }

  template <typename T>
  void read_group(const toml::table& root, std::string_view name, T& target) const {
    const toml::node* node = root.get(name);
    static const toml::table kNothing;
    if (node != nullptr && !node->is_table())
      fail(node->source(), std::string(name), "a group of keys is expected", fmt::format("Write it as [{}].", name));
    read(node == nullptr ? kNothing : *node->as_table(), std::string(name), fields_of(target));
  }

  template <typename T>
  void read_list(const toml::table& root, std::string_view name, std::vector<T>& target) const {
    const toml::node* node = root.get(name);
    if (node == nullptr) return;
    if (!node->is_array_of_tables())
      fail(node->source(), std::string(name), "a list of groups is expected",
           fmt::format("Begin each entry with [[{}]].", name));
    for (const toml::node& entry : *node->as_array()) {
      target.emplace_back();
      read(*entry.as_table(), std::string(name), fields_of(target.back()));
    }
  }

  [[noreturn]] void fail(const toml::source_region& where, const std::string& key, std::string_view what,
                         std::string next) const {
    throw Error(fmt::format("{}:{}: {}: {}", source_, where.begin.line, key, what), std::move(next));
  }

 private:
  static std::string full(std::string_view name, std::string_view key) {
    return name.empty() ? std::string(key) : fmt::format("{}.{}", name, key);
  }

  void set(const Field& field, const std::string& name, const toml::node& node) const {
    if (!std::visit(Setter{node}, field.slot))
      fail(node.source(), name, fmt::format("{} is expected", expected(field.slot)),
           "docs/launch.md explains the keys.");
    // Scripts hold it in a line.
    const std::string text = node.value_exact<std::string>().value_or("");
    if (std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < ' '; }))
      fail(node.source(), name, "a line break or another control character", "Write it in one line.");
    if (!node.is_number()) return;
    const double value = *node.value<double>();
    if (value >= field.low && value <= field.high) return;
    fail(node.source(), name, fmt::format("{} is out of range", value),
         fmt::format("It is at least {} and at most {}.", field.low, field.high));
  }

  std::string source_;
};

// What several keys must make together.
void check_site(const Site& site, const Reader& reader) {
  const toml::source_region start{{1, 1}, {1, 1}, {}};
  if (site.node.devices > 0 && site.node.device_memory <= 0)
    reader.fail(start, "node.devices", "devices without their memory", "Give node.device_memory, too.");
  if (site.node.ranks > site.node.cores)
    reader.fail(start, "node.ranks", fmt::format("{} ranks on {} cores", site.node.ranks, site.node.cores),
                "A rank takes a core at the least.");
  for (const Variable& variable : site.environment) {
    const bool good = !variable.name.empty() && std::isdigit(static_cast<unsigned char>(variable.name[0])) == 0 &&
                      std::all_of(variable.name.begin(), variable.name.end(),
                                  [](unsigned char c) { return c == '_' || std::isalnum(c) != 0; });
    if (!good)
      reader.fail(start, "environment.name", fmt::format("'{}' is no name of a variable", variable.name),
                  "Letters, digits and _, the first no digit.");
  }
  for (size_t at = 1; at < site.limits.size(); ++at) {
    if (site.limits[at].nodes <= site.limits[at - 1].nodes)
      reader.fail(start, "limit.nodes", "limits are not in ascending order", "Begin with the fewest nodes.");
  }
}

}  // namespace

std::span<const std::string_view> words_of(Use /*type*/) {
  static constexpr std::array<std::string_view, 2> kWords = {"always", "devices"};
  return kWords;
}

Site parse_site(std::string_view text, std::string_view source) {
  toml::table root;
  try {
    root = toml::parse(text, source);
  } catch (const toml::parse_error& error) {
    throw Error(fmt::format("{}:{}: {}", source, error.source().begin.line, error.description()),
                "The file must be TOML: [group], then lines of key = value; text in quotes.");
  }
  Site site;
  const Reader reader(source);
  std::vector<std::string_view> others(kGroups.begin(), kGroups.end());
  others.insert(others.end(), kLists.begin(), kLists.end());
  reader.read(root, "", top_fields(site), others);
  reader.read_group(root, "node", site.node);
  reader.read_group(root, "links", site.links);
  reader.read_group(root, "slurm", site.slurm);
  reader.read_list(root, "limit", site.limits);
  reader.read_list(root, "sbatch", site.sbatch);
  reader.read_list(root, "srun", site.srun);
  reader.read_list(root, "environment", site.environment);
  check_site(site, reader);
  return site;
}

Site read_site(const std::string& name_or_file) {
  if (name_or_file.ends_with(".toml") || name_or_file.find('/') != std::string::npos)
    return parse_site(read_text(name_or_file), name_or_file);
  std::vector<std::string> names;
  for (const KnownSite& known : known_sites()) {
    if (known.name == name_or_file) return parse_site(known.text, fmt::format("launch/sites/{}.toml", known.name));
    names.emplace_back(known.name);
  }
  const std::string guess = nearest(name_or_file, names);
  throw Error(fmt::format("--site {}: no such site", name_or_file),
              fmt::format("{}Known: {}; or a file of your own: --site my_cluster.toml.",
                          guess.empty() ? "" : fmt::format("Did you mean {}? ", guess), fmt::join(names, ", ")));
}

std::vector<std::string> site_keys() {
  Site site;
  TimeLimit limit;
  SlurmOption option;
  Variable variable;
  std::vector<std::string> keys;
  const auto add = [&](std::string_view group, const std::vector<Field>& fields) {
    for (const Field& field : fields)
      keys.push_back(group.empty() ? std::string(field.name) : fmt::format("{}.{}", group, field.name));
  };
  add("", top_fields(site));
  add("node", fields_of(site.node));
  add("links", fields_of(site.links));
  add("slurm", fields_of(site.slurm));
  add("limit", fields_of(limit));
  add("sbatch", fields_of(option));
  add("srun", fields_of(option));
  add("environment", fields_of(variable));
  return keys;
}

}  // namespace ridgeline::launch
