#include "fuzz_driver.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

namespace {

void run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

std::string mutated(std::string text, const std::vector<std::string>& others, std::mt19937& random) {
  constexpr const char* kBits[] = {"\"", "\\",       "{",       "}",         "[",        "]",
                                   ":",  ",",        "\n",      "\r",        "\n\n",     "null",
                                   "-1", "\\ud800",  "1e999",   "\xff",      "\xE6\xBC", "\xF0\x9F\x98\x80",
                                   " ",  "\"text\"", "\\u0000", "4294967296"};
  const auto below = [&](size_t n) { return n == 0 ? size_t{0} : static_cast<size_t>(random()) % n; };
  for (size_t edits = 1 + below(6); edits > 0; --edits) {
    const size_t at = below(text.size() + 1);
    switch (below(7)) {
      case 0:
        text.resize(at);
        break;
      case 1:
        text.erase(at, below(20));
        break;
      case 2:
        text.insert(at, kBits[below(std::size(kBits))]);
        break;
      case 3:
        text.insert(at, text.substr(below(text.size()), below(40)));
        break;
      case 4:
        text += others[below(others.size())].substr(0, below(200));
        break;
      case 5:
        for (size_t i = at; i < text.size() && i < at + 8; ++i) text[i] = static_cast<char>(below(3) == 0 ? 0xFF : 0);
        break;
      default:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
    }
  }
  return text;
}

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "%s cannot be read\n", path.c_str());
    std::exit(1);
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

// Sorted, so that every run does the same.
void add_folder(const std::filesystem::path& folder, std::vector<std::string>& inputs) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) inputs.push_back(contents(path));
}

}  // namespace

// fuzz_x [RUNS [FOLDER]]: seeds, what lies in the folder, and mutations of both. fuzz_x FILE...: those inputs, to
// repeat a finding.
int main(int argc, char** argv) {
  std::vector<std::string> start = seeds();
  const bool files = argc > 1 && std::atoi(argv[1]) == 0;
  if (files) {
    for (int i = 1; i < argc; ++i) run(contents(argv[i]));
    return 0;
  }
  const int runs = argc > 1 ? std::atoi(argv[1]) : 3000;
  if (argc > 2) add_folder(argv[2], start);
  std::mt19937 random(20240229);
  for (const std::string& seed : start) run(seed);
  for (int i = 0; i < runs; ++i) run(mutated(start[static_cast<size_t>(random()) % start.size()], start, random));
  std::printf("%d inputs\n", runs + static_cast<int>(start.size()));
}
