// Where a token dataset may be written. Internal to the room, and for the command that writes one.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

namespace ridgeline::data {

// `path` without .bin or .idx.
std::filesystem::path dataset_prefix(const std::filesystem::path& path);

// Whether a file called `path` would be one of those that `prepare` writes for `prefix`: .bin, .idx, .json, .lock or
// .partial.
bool is_of_dataset(const std::filesystem::path& path, const std::filesystem::path& prefix);

// Whether a file that begins so is PREFIX.json as `prepare` writes it.
bool is_dataset_note(std::string_view start);

// Error unless PREFIX.bin, .idx and .json can be written without loss: none of them exists, or all that do are a
// dataset that `prepare` wrote (its note says so); and none is one of `inputs`. Error also when `out` names a folder
// ("data/", "."), with what to write instead of it.
void require_replaceable_dataset(const std::filesystem::path& out, std::span<const std::filesystem::path> inputs);

}  // namespace ridgeline::data
