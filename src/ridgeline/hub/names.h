// Names on a Hugging Face-compatible hub: repositories, revisions, files, and how they stand in addresses. A server's
// names become paths on this machine only when safe_path() says so.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::hub {

enum class RepositoryKind { model, dataset };

struct Repository {
  RepositoryKind kind = RepositoryKind::model;
  std::string name;  // "gpt2-xl", "EleutherAI/gpt-j-6b"
};

// Error unless `name` is what a hub calls a repository: one or two words of letters, digits, '-', '_' and '.'.
Repository repository(RepositoryKind kind, std::string_view name);

// "model" or "dataset".
std::string_view word_for(RepositoryKind kind);

// The address of one file: ENDPOINT/[datasets/]NAME/resolve/REVISION/PATH.
std::string file_url(std::string_view endpoint, const Repository& repository, std::string_view revision,
                     std::string_view path);
// What the hub tells about a repository is below ENDPOINT/api/models/NAME or ENDPOINT/api/datasets/NAME.
std::string api_url(std::string_view endpoint, const Repository& repository);
// The page for people.
std::string page_url(std::string_view endpoint, const Repository& repository);

// `text` for an address, all but letters, digits and "-._~" as %XX; '/' stays where `keep_slashes`.
std::string percent_encoded(std::string_view text, bool keep_slashes);

// Whether a terminal may take it for a command.
bool is_control(char c);

// Whether `path` is a relative path that stays below the folder it is put in: no empty component, no "." or "..", no
// control character, no component past 255 bytes, no more than 1024 bytes.
bool safe_path(std::string_view path);

// 40 hexadecimal digits: a commit, which never changes.
bool is_commit(std::string_view revision);

// Error unless `revision` can be one: a branch, a tag or a commit.
void check_revision(std::string_view revision);

// What lies between the slashes of a path, in order.
std::vector<std::string> components_of(std::string_view path);

// Whether `path` matches a pattern, component by component: "**" is any number of them, in any other a shell's
// characters mean what they do there. At worst the time is the product of the lengths.
bool in_folders(std::string_view pattern, std::string_view path);

// Whether `path` matches a pattern of a shell, in which '*' also matches '/'; "onnx/" is all of a folder.
bool matches(const std::string& pattern, const std::string& path);

}  // namespace ridgeline::hub
