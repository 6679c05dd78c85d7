// .idx: any bytes give an Error or a dataset all of whose tokens can be read.
#include <filesystem>

#include "file_folder.h"
#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/data/indexed_dataset.h"

using namespace ridgeline;        // NOLINT
using namespace ridgeline::data;  // NOLINT

namespace {

void open_and_read(size_t bin_bytes) {
  write_file("d.bin", std::string(bin_bytes, '\x07'));
  try {
    const auto dataset = IndexedDataset::open(file_folder() / "d");
    RL_CHECK(dataset->tokens() * size_of(dataset->token_type()), ==, static_cast<int64_t>(bin_bytes));
    for (int64_t d = 0; d < dataset->documents(); ++d) {
      std::vector<int32_t> tokens(static_cast<size_t>(dataset->length(d)));
      dataset->read(dataset->begin(d), tokens, int64_t{1} << 31);
    }
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  write_file("d.idx", std::string_view(reinterpret_cast<const char*>(data), size));
  // The .bin sizes that the seeds' headers ask for, and none.
  open_and_read(size == 0 ? 0 : size_t{10});
  if (size % 3 == 0) open_and_read(24);
  if (size % 16 == 0) open_and_read(0);
  return 0;
}

std::vector<std::string> seeds() {
  std::vector<std::string> result;
  for (const int64_t vocabulary : {100, 100000}) {
    IndexedDatasetWriter writer(file_folder() / "seed", vocabulary);
    writer.add_document(std::vector<int32_t>{1, 2, 3});
    writer.add_document(std::vector<int32_t>{4, 5});
    if (vocabulary > 65536) writer.add_document(std::vector<int32_t>{6});
    writer.finish(std::nullopt);
    result.push_back(read_text(file_folder() / "seed.idx"));
  }
  return result;
}
