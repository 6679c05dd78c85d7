// Before something is written where a user said: nothing may be lost that Ridgeline did not write.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace ridgeline {

// Whether a file that begins so (up to kRecognisedBytes of it) was written by what would replace it.
using Recognise = std::function<bool(std::string_view start)>;
inline constexpr size_t kRecognisedBytes = size_t{1} << 16;

// Both exist and are one and the same: links, symbolic or hard, do not count as another.
bool same_file(const std::filesystem::path& one, const std::filesystem::path& other);

// Up to kRecognisedBytes from the start of a regular file; "" of anything else.
std::string start_of(const std::filesystem::path& path);

// Error unless `path` can be written without loss: nothing stands there, or an empty file, or one that `ours`
// recognises; and never when it is one of `inputs` (files or folders that the same command reads). `option` names it in
// messages ("--out web").
void require_replaceable(const std::filesystem::path& path, std::string_view option,
                         std::span<const std::filesystem::path> inputs, const Recognise& ours);

// A file that a user names for a result: as write_atomically, but devices and pipes (/dev/stdout, /dev/null) are
// written to and stay what they are. require_writable is its require_replaceable.
void require_writable(const std::filesystem::path& path, std::string_view option,
                      std::span<const std::filesystem::path> inputs, const Recognise& ours);
void write_output(const std::filesystem::path& path, std::string_view bytes);

}  // namespace ridgeline
