#include "ridgeline/hub/names.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

#include "ridgeline/base/error.h"

namespace ridgeline::hub {
namespace {

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool is_word(std::string_view text) {
  return !text.empty() && text.front() != '.' && text.front() != '-' && text.back() != '.' && text.back() != '-' &&
         text.find("--") == std::string_view::npos && text.find("..") == std::string_view::npos &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return is_letter_or_digit(c) || c == '-' || c == '_' || c == '.'; });
}

std::string_view prefix_of(RepositoryKind kind) {
  return kind == RepositoryKind::dataset ? "datasets/" : "";
}

}  // namespace

Repository repository(RepositoryKind kind, std::string_view name) {
  const size_t slash = name.find('/');
  const bool sound = name.size() <= 96 && (slash == std::string_view::npos
                                               ? is_word(name)
                                               : is_word(name.substr(0, slash)) && is_word(name.substr(slash + 1)));
  if (!sound) {
    throw Error(fmt::format("'{}' cannot be the name of a {} on a hub", name, word_for(kind)),
                kind == RepositoryKind::model ? "Give a name such as gpt2-xl or EleutherAI/gpt-j-6b."
                                              : "Give a name such as oscar or oscar-corpus/OSCAR-2301.");
  }
  return {kind, std::string(name)};
}

std::string_view word_for(RepositoryKind kind) {
  return kind == RepositoryKind::dataset ? "dataset" : "model";
}

std::string percent_encoded(std::string_view text, bool keep_slashes) {
  std::string result;
  for (const char c : text) {
    const bool plain = is_letter_or_digit(c) || c == '-' || c == '.' || c == '_' || c == '~';
    if (plain || (keep_slashes && c == '/')) {
      result += c;
    } else {
      result += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return result;
}

std::string file_url(std::string_view endpoint, const Repository& repository, std::string_view revision,
                     std::string_view path) {
  return fmt::format("{}/{}{}/resolve/{}/{}", endpoint, prefix_of(repository.kind), repository.name,
                     percent_encoded(revision, false), percent_encoded(path, true));
}

std::string api_url(std::string_view endpoint, const Repository& repository) {
  return fmt::format("{}/api/{}s/{}", endpoint, word_for(repository.kind), repository.name);
}

std::string page_url(std::string_view endpoint, const Repository& repository) {
  return fmt::format("{}/{}{}", endpoint, prefix_of(repository.kind), repository.name);
}

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
}

std::vector<std::string> components_of(std::string_view path) {
  std::vector<std::string> result;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    result.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return result;
}

bool safe_path(std::string_view path) {
  if (path.empty() || path.size() > 1024 || std::any_of(path.begin(), path.end(), is_control)) return false;
  const std::vector<std::string> parts = components_of(path);
  return std::none_of(parts.begin(), parts.end(), [](const std::string& part) {
    return part.empty() || part == "." || part == ".." || part.size() > 255;
  });
}

bool in_folders(std::string_view pattern, std::string_view path) {
  const std::vector<std::string> names = components_of(path);
  // Element i: whether what was looked at of the pattern matches the first i names.
  std::vector<bool> matched(names.size() + 1);
  matched[0] = true;
  for (const std::string& part : components_of(pattern)) {
    if (part == "**") {
      for (size_t i = 1; i < matched.size(); ++i) matched[i] = matched[i] || matched[i - 1];
      continue;
    }
    for (size_t i = names.size(); i > 0; --i)
      matched[i] = matched[i - 1] && ::fnmatch(part.c_str(), names[i - 1].c_str(), 0) == 0;
    matched[0] = false;
  }
  return matched.back();
}

bool is_commit(std::string_view revision) {
  return revision.size() == 40 && revision.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

void check_revision(std::string_view revision) {
  if (safe_path(revision)) return;
  throw Error(fmt::format("--revision: '{}' cannot be a branch, a tag or a commit", revision),
              "Give a name such as main, or the 40 hexadecimal digits of a commit.");
}

bool matches(const std::string& pattern, const std::string& path) {
  const std::string whole = pattern.ends_with('/') ? pattern + "*" : pattern;
  return ::fnmatch(whole.c_str(), path.c_str(), 0) == 0;
}

}  // namespace ridgeline::hub
