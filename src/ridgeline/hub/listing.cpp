#include "ridgeline/hub/listing.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/hub/names.h"

namespace ridgeline::hub {
namespace {

using nlohmann::json;

constexpr int kDeepest = 64;
constexpr size_t kLongestEtag = 128;

Error unsound(std::string_view where, std::string_view what) {
  return Error(fmt::format("{}: {}", where, what),
               "This is not what a hub answers: check HF_ENDPOINT, and proxies on the way.");
}

json parsed(std::string_view text, std::string_view where) {
  try {
    return parse_shallow_json(text, kDeepest);
  } catch (const std::exception&) {
    throw unsound(where, "the answer is no JSON");
  }
}

// The text of a member; "" where it is none.
std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::string path_of(const json& object, const char* key, std::string_view where) {
  std::string path = text_of(object, key);
  if (!safe_path(path)) {
    throw unsound(where, fmt::format("a file is called {}, which is no path inside a folder",
                                     json_string(path, NotUtf8::replace)));
  }
  return path;
}

int64_t size_of(const json& object, std::string_view path, std::string_view where) {
  const auto found = object.find("size");
  if (found == object.end() || !found->is_number_integer()) throw unsound(where, fmt::format("'{}' has no size", path));
  const bool counts = found->is_number_unsigned() ? found->get<uint64_t>() <= static_cast<uint64_t>(kLargestFile)
                                                  : found->get<int64_t>() >= 0;
  if (!counts) throw unsound(where, fmt::format("'{}' has a size that no file has", path));
  return found->get<int64_t>();
}

// A pattern, or a list of patterns, as seen from a folder (empty: the top); nothing of anything else.
std::vector<std::string> patterns_of(const json& value, const std::string& folder) {
  std::vector<std::string> result;
  const auto add = [&](const json& one) {
    if (one.is_string()) result.push_back((folder.empty() ? "" : folder + "/") + one.get<std::string>());
  };
  if (!value.is_array()) add(value);
  if (value.is_array()) std::for_each(value.begin(), value.end(), add);
  return result;
}

// A name that messages may show; "" where it is none.
std::string name_of(const json& object, const char* key) {
  std::string name = text_of(object, key);
  return std::any_of(name.begin(), name.end(), is_control) ? std::string() : name;
}

// "configs" of a dataset's card: what it does not say well counts as not said.
void read_card(const json& card, std::vector<DataFiles>& result) {
  const auto configs = card.find("configs");
  if (configs == card.end() || !configs->is_array()) return;
  for (const json& config : *configs) {
    if (!config.is_object()) continue;
    const std::string name = name_of(config, "config_name");
    const std::string folder = text_of(config, "data_dir");
    if (name.empty()) continue;
    const auto files = config.find("data_files");
    if (files == config.end()) {
      if (!folder.empty()) result.push_back({name, "", {folder + "/**"}});
      continue;
    }
    const bool splits = files->is_array() && !files->empty() && files->front().is_object();
    if (!splits) {
      result.push_back({name, "", patterns_of(*files, folder)});
      continue;
    }
    for (const json& split : *files) {
      if (!split.is_object() || !split.contains("path")) continue;
      result.push_back({name, name_of(split, "split"), patterns_of(split["path"], folder)});
    }
  }
}

}  // namespace

RepositoryInfo parse_info(std::string_view text, std::string_view where) {
  const json info = parsed(text, where);
  RepositoryInfo result;
  if (!info.is_object()) throw unsound(where, "the answer is no object");
  result.commit = text_of(info, "sha");
  if (!is_commit(result.commit)) throw unsound(where, "the answer has no commit (\"sha\")");
  const auto files = info.find("siblings");
  if (files != info.end() && files->is_array()) {
    for (const json& file : *files) {
      if (!file.is_object()) throw unsound(where, "a file is no object");
      result.paths.push_back(path_of(file, "rfilename", where));
    }
  }
  const auto card = info.find("cardData");
  if (card != info.end() && card->is_object()) read_card(*card, result.data);
  return result;
}

void parse_tree(std::string_view text, std::string_view where, std::vector<RemoteFile>& files) {
  const json tree = parsed(text, where);
  if (!tree.is_array()) throw unsound(where, "the answer is no list of files");
  for (const json& entry : tree) {
    if (!entry.is_object()) throw unsound(where, "an entry is no object");
    if (text_of(entry, "type") != "file") continue;
    RemoteFile file;
    file.path = path_of(entry, "path", where);
    file.size = size_of(entry, file.path, where);
    file.etag = text_of(entry, "oid");
    const auto large = entry.find("lfs");
    if (large != entry.end() && large->is_object()) {
      file.etag = text_of(*large, "oid");
      if (file.etag.starts_with("sha256:")) file.etag.erase(0, 7);
      file.size = size_of(*large, file.path, where);
      if (file.digest() != DigestKind::sha256)
        throw unsound(where, fmt::format("'{}' has no SHA-256 (\"lfs\".\"oid\")", file.path));
    } else if (file.digest() != DigestKind::git_sha1) {
      throw unsound(where, fmt::format("'{}' has no hash (\"oid\")", file.path));
    }
    files.push_back(std::move(file));
  }
}

std::optional<std::vector<RemoteFile>> parse_kept_tree(std::string_view text) {
  const json tree = parse_json_if_any(text);
  if (!tree.is_object() || !tree.contains("format_version") || tree["format_version"] != 1) return std::nullopt;
  const auto files = tree.find("files");
  if (files == tree.end() || !files->is_object()) return std::nullopt;
  std::vector<RemoteFile> result;
  for (const auto& [path, entry] : files->items()) {
    if (!safe_path(path) || !entry.is_object()) return std::nullopt;
    const auto size = entry.find("size");
    if (size == entry.end() || !size->is_number_unsigned() || size->get<uint64_t>() > uint64_t{kLargestFile})
      return std::nullopt;
    RemoteFile file{path, size->get<int64_t>(), text_of(entry, "lfs_sha256")};
    if (file.etag.empty()) file.etag = text_of(entry, "blob_id");
    if (file.digest() == DigestKind::none) return std::nullopt;
    result.push_back(std::move(file));
  }
  return result;
}

std::vector<std::string> parse_refs(std::string_view text) {
  std::vector<std::string> result;
  const json refs = parse_json_if_any(text);
  for (const char* kind : {"branches", "tags"}) {
    if (!refs.is_object() || !refs.contains(kind) || !refs[kind].is_array()) continue;
    for (const json& one : refs[kind]) {
      if (one.is_object() && safe_path(text_of(one, "name"))) result.push_back(text_of(one, "name"));
    }
  }
  return result;
}

std::string next_page(std::string_view link) {
  for (size_t begin = link.find('<'); begin != std::string_view::npos; begin = link.find('<', begin + 1)) {
    const size_t end = link.find('>', begin);
    if (end == std::string_view::npos) break;
    const std::string_view after = link.substr(end + 1, link.find('<', end) - end - 1);
    if (after.find("rel=\"next\"") != std::string_view::npos || after.find("rel=next") != std::string_view::npos)
      return std::string(link.substr(begin + 1, end - begin - 1));
  }
  return {};
}

std::string plain_etag(std::string_view header) {
  if (header.starts_with("W/")) header.remove_prefix(2);
  if (header.size() >= 2 && header.front() == '"' && header.back() == '"') header = header.substr(1, header.size() - 2);
  const bool plain = std::all_of(header.begin(), header.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
  if (!plain || header.empty() || header.front() == '.' || header.size() > kLongestEtag) return {};
  return std::string(header);
}

std::vector<std::string> indexed_files(std::string_view text, std::string_view where) {
  const json index = parsed(text, where);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) throw unsound(where, "it has no \"weight_map\"");
  std::set<std::string> names;
  for (const auto& [tensor, name] : map->items()) {
    if (!name.is_string() || !safe_path(name.get<std::string>()))
      throw unsound(where, fmt::format("the file of {} is none", json_string(tensor, NotUtf8::replace)));
    names.insert(name.get<std::string>());
  }
  return {names.begin(), names.end()};
}

}  // namespace ridgeline::hub
