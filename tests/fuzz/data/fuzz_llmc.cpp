// Token files of llm.c: any bytes, cut into two files, give an Error or a dataset all of whose tokens can be read, and
// are those of the files.
#include <algorithm>
#include <cstring>
#include <filesystem>

#include "file_folder.h"
#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/fingerprint.h"
#include "ridgeline/data/indexed_dataset.h"

using namespace ridgeline;        // NOLINT
using namespace ridgeline::data;  // NOLINT

namespace {

constexpr size_t kHeader = 1024;

void open_and_read(const std::filesystem::path& path, std::string_view bytes) {
  try {
    const auto dataset = IndexedDataset::open(path);
    RL_CHECK(dataset->bytes(), ==, static_cast<int64_t>(bytes.size()));
    RL_CHECK(dataset->begin(dataset->documents()), ==, dataset->tokens());
    const int32_t separator = dataset->token_type() == TokenType::u16 ? 50256 : 128000;
    int64_t visited = 0;
    const ByteRange all{0, dataset->bytes()};
    dataset->read_bytes({&all, 1}, [&](std::span<const std::byte> each) {
      RL_CHECK(std::memcmp(each.data(), bytes.data() + visited, each.size()), ==, 0);
      visited += static_cast<int64_t>(each.size());
    });
    RL_CHECK(visited, ==, dataset->bytes());
    for (int64_t d = 0; d < dataset->documents(); ++d) {
      std::vector<int32_t> tokens(static_cast<size_t>(dataset->length(d)));
      RL_CHECK(tokens.empty(), ==, false);
      dataset->read(dataset->begin(d), tokens, int64_t{1} << 31);
      RL_CHECK(d == 0 || tokens.front() == separator, ==, true);
      RL_CHECK(std::count(tokens.begin() + 1, tokens.end(), separator), ==, 0);
    }
  } catch (const Error&) {
  }
}

std::string of_llmc(int32_t magic, int32_t version, std::string_view tokens, size_t item) {
  std::string bytes(kHeader, '\0');
  const int32_t header[3] = {magic, version, static_cast<int32_t>(tokens.size() / item)};
  std::memcpy(bytes.data(), header, sizeof header);
  return bytes.append(tokens);
}

template <typename Id>
std::string ids(const std::vector<Id>& list) {
  return {reinterpret_cast<const char*>(list.data()), list.size() * sizeof(Id)};
}

}  // namespace

// The first two bytes say how long the first file is: 0 for a single one.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view all(reinterpret_cast<const char*>(data) + 2, size - 2);
  const size_t cut = std::min<size_t>(data[0] | (data[1] << 8), all.size());
  const std::string_view first = all.substr(0, cut == 0 ? all.size() : cut), second = all.substr(first.size());
  const auto tokens = [](std::string_view file) { return file.substr(std::min(kHeader, file.size())); };
  write_file("a1.bin", first);
  open_and_read(file_folder() / "a1.bin", tokens(first));
  if (second.empty()) return 0;
  write_file("a2.bin", second);
  open_and_read(file_folder() / "a*.bin", std::string(tokens(first)).append(tokens(second)));
  std::filesystem::remove(file_folder() / "a2.bin");
  return 0;
}

std::vector<std::string> seeds() {
  const std::string gpt2 = of_llmc(20240520, 1, ids<uint16_t>({50256, 1, 2, 50256, 3}), 2);
  const std::string goes_on = of_llmc(20240520, 1, ids<uint16_t>({4, 50256, 50256}), 2);
  const std::string llama = of_llmc(20240801, 7, ids<uint32_t>({128000, 7, 128000, 9, 8}), 4);
  const auto input = [](const std::string& first, const std::string& second) {
    const size_t cut = second.empty() ? 0 : first.size();
    return std::string{static_cast<char>(cut & 0xFF), static_cast<char>(cut >> 8)} + first + second;
  };
  return {input(gpt2, ""),      input(llama, ""),   input(gpt2, goes_on),
          input(goes_on, gpt2), input(gpt2, llama), input(of_llmc(20240520, 1, "", 2), gpt2),
          input(llama, llama)};
}
