// What most files of the program read, compiled once (ridgeline_precompile): the standard headers that more than a few
// of them include, and two libraries. A file still includes what it uses.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

// The literal ""_json is an inline function for which every file would compile the whole parser, used or not: for
// 0.8 s. Nobody here writes one, so that it is only declared; its body becomes a template's, which costs nothing.
// Where the library's text is another one, this changes nothing.
#define _json(...) _json(__VA_ARGS__); template <typename> json body_of_literal(__VA_ARGS__)
#include <nlohmann/json.hpp>
#undef _json
