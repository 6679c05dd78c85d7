// `ridgeline inspect` of what is neither a dataset nor a model: what is it, and what to do with it?
#pragma once

#include <filesystem>

namespace ridgeline::cli {

// The folder to look at instead, when `path` is a file that belongs to one (manifest.json, config.json, an index of
// weights); else `path`.
std::filesystem::path owner_of(const std::filesystem::path& path);

// Prints what a file, or a folder without a model, holds. False when nothing can be said about it.
bool inspect_file(const std::filesystem::path& path);

}  // namespace ridgeline::cli
