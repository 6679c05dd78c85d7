#include "bench/text_corpora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>
#include <string_view>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/random.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::bench {
namespace {

namespace fs = std::filesystem;

// Files below `folder` that `wanted` takes, in the order of their names.
std::vector<fs::path> files_below(const fs::path& folder, const std::function<bool(const fs::path&)>& wanted) {
  std::vector<fs::path> files;
  std::error_code none;
  fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, none), end;
  for (; !none && entry != end; entry.increment(none)) {
    if (entry->is_regular_file(none) && !entry->is_symlink(none) && wanted(entry->path()))
      files.push_back(entry->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// The translations of a compiled message catalogue of GNU gettext (the machine's own byte order alone).
std::string messages_of(std::string_view file) {
  const auto number = [&](size_t at) {
    uint32_t value = 0;
    if (at + sizeof value <= file.size()) std::memcpy(&value, file.data() + at, sizeof value);
    return size_t{value};
  };
  std::string text;
  if (number(0) != 0x950412DE) return text;
  const size_t count = number(8), table = number(16);
  for (size_t i = 0; i < count && table + 8 * i < file.size(); ++i) {
    const size_t length = number(table + 8 * i), begin = number(table + 8 * i + 4);
    if (begin < file.size()) text.append(file.substr(begin, length)).push_back('\n');
  }
  std::replace(text.begin(), text.end(), '\0', '\n');  // between the plural forms of one message
  return text;
}

struct Source {
  std::vector<fs::path> folders;
  std::function<bool(const fs::path&)> wanted;
  std::string (*text_of)(std::string_view file);
};

std::string as_it_is(std::string_view file) {
  return std::string(file);
}

// Each text once: packages of one source share theirs.
std::string gathered(const Source& source, size_t bytes) {
  std::string text;
  std::set<uint64_t> seen;
  for (const fs::path& folder : source.folders) {
    for (const fs::path& file : files_below(folder, source.wanted)) {
      if (text.size() >= bytes) return text;
      const std::string one = source.text_of(read_text(file));
      if (!seen.insert(hash_name(one)).second) continue;
      data::append_as_utf8(one, text);
      text += "\n";
    }
  }
  const std::string once = text;
  while (!once.empty() && text.size() < bytes / 2) text += once;
  return text;
}

bool ends_in(const fs::path& path, std::initializer_list<std::string_view> endings) {
  const std::string name = path.filename().string();
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view ending) { return name.ends_with(ending); });
}

}  // namespace

std::vector<TextCorpus> text_corpora(const fs::path& folder, int64_t bytes) {
  if (!folder.empty()) {
    std::vector<TextCorpus> corpora;
    for (const char* name : {"english", "code", "cjk"})
      corpora.push_back({name, read_text(folder / fmt::format("{}.txt", name))});
    return corpora;
  }
  const std::vector<std::pair<std::string, Source>> sources = {
      {"english",
       {{"/usr/share/perl", "/usr/share/doc"},
        [](const fs::path& path) {
          // Perl's own .txt are tables: of Unicode's collation keys, say.
          const bool perls = path.string().starts_with("/usr/share/perl/");
          return perls ? ends_in(path, {".pod"}) : ends_in(path, {".txt", "README", "copyright"});
        },
        as_it_is}},
      {"code",
       {{"/usr/include", "/usr/lib/python3"},
        [](const fs::path& path) {
          return ends_in(path, {".h", ".py"});
        },
        as_it_is}},
      {"cjk",
       {{"/usr/share/locale/zh_CN", "/usr/share/locale/ja", "/usr/share/locale/ko", "/usr/share/locale/zh_TW"},
        [](const fs::path& path) { return ends_in(path, {".mo"}); },
        messages_of}}};
  std::vector<TextCorpus> corpora;
  for (const auto& [name, source] : sources) {
    corpora.push_back({name, gathered(source, static_cast<size_t>(bytes))});
    if (corpora.back().text.empty())
      throw Error(
          fmt::format("nothing to read below {}", source.folders.front().string()),
          "Install perl-doc, libc6-dev and iso-codes, or give a folder with english.txt, code.txt and cjk.txt.");
  }
  return corpora;
}

}  // namespace ridgeline::bench
