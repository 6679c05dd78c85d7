// What `prepare` says at its end: for people, and for programs.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "ridgeline/data/prepare.h"

namespace ridgeline::cli {

// Documents, tokens, bytes per token, MB/s of text, and how long documents are, as a plot.
std::string prepare_report(const data::PrepareResult& result, const std::filesystem::path& prefix, double seconds);

// One JSON object, described in docs/corpora.md.
std::string prepare_report_json(const data::PrepareResult& result, double seconds);

// Whether a file that begins so is one of those: what --json may replace.
bool is_prepare_report(std::string_view start);

}  // namespace ridgeline::cli
