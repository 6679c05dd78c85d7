// What most files of the program read, compiled once (ridgeline_precompile): the standard headers that more than a few
// of them include, and the two libraries that cost more to read than the files that use them.
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

// The literals "…"_json are inline functions, for whose sake every file would compile the whole parser, used or not: 0.8 s
// of each. Nobody here writes one, so it is only declared; its body becomes a template's, which costs nothing.
#define _json(...) _json(__VA_ARGS__); template <typename> json body_of_literal(__VA_ARGS__)
#include <nlohmann/json.hpp>
#undef _json
