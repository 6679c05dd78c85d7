#include "ridgeline/cli/input_checksums.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/hub/digest.h"

namespace ridgeline::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kDigits = 64;
constexpr std::string_view kBlank = " \t\r";

bool is_sha256(std::string_view word) {
  return word.size() == kDigits &&
         std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isxdigit(c); });
}

std::string lower(std::string_view word) {
  std::string result(word);
  std::transform(result.begin(), result.end(), result.begin(), [](unsigned char c) { return std::tolower(c); });
  return result;
}

bool holds_checksums(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with("_sha256.txt") || name.ends_with(".sha256") || name == "SHA256SUMS";
}

std::map<std::string, std::string> checksums_in(const fs::path& folder) {
  std::map<std::string, std::string> sums;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (!entry.is_regular_file() || !holds_checksums(entry.path())) continue;
    for (auto& [name, sum] : parse_checksums(read_text(entry.path()))) sums.insert_or_assign(name, std::move(sum));
  }
  return sums;
}

void verify(const fs::path& path, const std::string& expected) {
  const File file(path, File::Mode::read);
  const std::string found = hub::digest_of(file, file.size(), hub::DigestKind::sha256);
  if (found == expected) return;
  throw Error(
      fmt::format("'{}' has the SHA-256 {}, and the checksums beside it say {}", path.string(), found, expected),
      "Get the file again: it is damaged, or not the one that they are of.");
}

}  // namespace

std::map<std::string, std::string> parse_checksums(std::string_view text) {
  std::map<std::string, std::string> sums;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    line.remove_prefix(std::min(line.find_first_not_of(kBlank), line.size()));
    line = line.substr(0, line.find_last_not_of(kBlank) + 1);
    std::string_view name, sum;
    if (line.size() > kDigits && is_sha256(line.substr(0, kDigits)) &&
        kBlank.find(line[kDigits]) != std::string_view::npos) {
      sum = line.substr(0, kDigits);
      name = line.substr(kDigits + 1);
      name.remove_prefix(std::min(name.find_first_not_of(kBlank), name.size()));
      if (name.starts_with('*')) name.remove_prefix(1);  // read as bytes, says sha256sum
    } else if (const size_t tab = line.find('\t'); tab != std::string_view::npos) {
      name = line.substr(0, tab);
      sum = line.substr(std::min(line.find_first_not_of(kBlank, tab), line.size()));
    }
    if (!is_sha256(sum)) continue;
    const std::string file = fs::path(name).filename().string();
    if (!file.empty()) sums.insert_or_assign(file, lower(sum));
  }
  return sums;
}

InputChecksums verify_inputs(std::span<const fs::path> files, int threads, int index, int count,
                             const std::function<void()>& go_on) {
  InputChecksums result;
  struct Work {
    fs::path path;
    std::string sum;
  };
  std::vector<Work> work;
  std::map<fs::path, std::map<std::string, std::string>> folders;
  for (auto i = static_cast<size_t>(index); i < files.size(); i += static_cast<size_t>(count)) {
    const fs::path folder = files[i].has_parent_path() ? files[i].parent_path() : fs::path(".");
    if (!folders.contains(folder)) folders.emplace(folder, checksums_in(folder));
    const auto& sums = folders.at(folder);
    const auto sum = sums.find(files[i].filename().string());
    if (sum == sums.end()) {
      result.without.push_back(files[i].string());
    } else {
      work.push_back({files[i], sum->second});
    }
  }
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr error;
  size_t failed = work.size();  // the first file that differs counts, whoever sees it when
  const auto verify_some = [&](bool own) {
    for (size_t i = next++; i < work.size(); i = next++) {
      try {
        if (own && go_on) go_on();
        verify(work[i].path, work[i].sum);
      } catch (...) {
        const std::lock_guard lock(mutex);
        next = work.size();
        if (i < failed) error = std::current_exception();
        failed = std::min(failed, i);
      }
    }
  };
  std::vector<std::jthread> others;
  try {
    for (size_t i = 1; i < std::min<size_t>(static_cast<size_t>(threads), work.size()); ++i)
      others.emplace_back(verify_some, false);
  } catch (const std::system_error&) {  // with those that there are
  }
  verify_some(true);
  others.clear();
  if (error) std::rethrow_exception(error);
  result.verified = static_cast<int64_t>(work.size());
  return result;
}

}  // namespace ridgeline::cli
