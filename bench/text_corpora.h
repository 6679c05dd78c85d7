// Text to measure tokenizers with, from what a Debian machine has.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace ridgeline::bench {

struct TextCorpus {
  std::string name;  // english, code, cjk
  std::string text;  // UTF-8
};

// english: perl's pages (perl-doc) and what packages say of themselves (/usr/share/doc); code: /usr/include and
// Python's library; cjk: the Chinese, Japanese and Korean messages of all programs (/usr/share/locale). About `bytes`
// of each, no file's text twice; what is shorter than half of that is repeated up to it. With a `folder`: its
// english.txt, code.txt and cjk.txt instead, whole. Error: nothing to read there, naming what to install.
std::vector<TextCorpus> text_corpora(const std::filesystem::path& folder, int64_t bytes);

}  // namespace ridgeline::bench
