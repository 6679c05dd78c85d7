#include "ridgeline/train/verify_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/block_checksums.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/observe/progress.h"
#include "ridgeline/train/agreement.h"
#include "ridgeline/train/host_work.h"

namespace ridgeline::train {
namespace {

using comm::Label;

// Where two lists of checksums of a file of so many bytes differ: "bytes 0 to 67,108,863 and 2 more blocks"; "" when
// they are the same.
std::string differing_bytes(const std::vector<uint32_t>& found, const std::vector<uint32_t>& expected,
                            int64_t file_bytes) {
  if (found.size() != expected.size()) return "all bytes";  // it has grown or shrunk
  int64_t first = -1, last = -1, more = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i] == expected[i]) continue;
    const auto block = static_cast<int64_t>(i);
    if (first < 0) first = last = block;
    if (block <= last + 1) {
      last = block;
    } else {
      ++more;
    }
  }
  if (first < 0) return {};
  const data::ByteRange end = data::checksum_block(file_bytes, last);
  return fmt::format("bytes {} to {}{}", observe::format_integer(data::checksum_block(file_bytes, first).first),
                     observe::format_integer(end.first + end.bytes - 1),
                     more == 0   ? ""
                     : more == 1 ? " and another block"
                                 : fmt::format(" and {} more blocks", more));
}

class Verification {
 public:
  Verification(comm::World& world, std::FILE* console)
      : world_(world),
        console_(world.rank() == 0 ? console : nullptr),
        everyone_(world.communicator("verification of data")),
        neighbours_(world.communicator(ranks_of_own_host(world), "verification of data on a host")) {}

  void verify(std::string_view key, const std::string& prefix) {
    const auto dataset = data::IndexedDataset::open(prefix);
    const bool noted = dataset->note() && !dataset->note()->checksums.empty();
    int64_t bytes = 0;
    bool known = true;  // of every file
    const std::vector<std::filesystem::path> files = dataset->files();
    for (size_t i = 0; i < files.size(); ++i) {
      const std::vector<uint32_t>& sums = dataset->checksums(i);
      bytes += noted ? verify(key, files[i], sums, {}) : verify(key, files[i], {}, sums);
      known = known && !sums.empty();
    }
    if (console_ != nullptr) conclude(key, bytes, noted, known);
  }

 private:
  // `expected`: checksums of the file's blocks from its note; none: those of rank 0's host are what all must have.
  // `known`: those of this host's file when its documents were found; or none. Returns how many bytes it has.
  int64_t verify(std::string_view key, const std::filesystem::path& path, std::vector<uint32_t> expected,
                 const std::vector<uint32_t>& known) {
    const File file(path, File::Mode::read);
    const int64_t bytes = file.size();
    const std::vector<uint32_t> found = read(key, file, bytes);
    const bool noted = !expected.empty();
    if (!noted) {
      expected = found;
      everyone_->wait(everyone_->broadcast(Ref(expected.data(), DType::u8),
                                           static_cast<int64_t>(expected.size() * sizeof(uint32_t)), 0,
                                           Label{"checksums of rank 0's host"}));
    }
    const std::string where = differing_bytes(found, expected, bytes);
    const char* const whose = noted ? "what prepare wrote" : "what rank 0 reads";
    Standing mine;
    mine.facts = {
        {fmt::format("{} (all of it)", key),
         where.empty() ? fmt::format("{}", whose) : fmt::format("not {} in {} of '{}'", whose, where, path.string())}};
    if (!where.empty()) {
      mine.trouble = Error(fmt::format("{}: {} of '{}' are not {}", key, where, path.string(), whose),
                           "The file was changed or damaged after it was prepared: copy it anew, or prepare it again.");
    } else if (!known.empty()) {
      const std::string changed = differing_bytes(found, known, bytes);
      if (!changed.empty())
        mine.trouble = Error(fmt::format("{}: {} of '{}' are not what they were when its documents were found", key,
                                         changed, path.string()),
                             "The file was changed or damaged since: copy it anew; where it is right, touch it.");
    }
    agree(world_, mine);
    return bytes;
  }

  std::vector<uint32_t> read(std::string_view key, const File& file, int64_t bytes) {
    const int64_t blocks = data::checksum_blocks(bytes), readers = neighbours_->size();
    int64_t rounds = (blocks + readers - 1) / readers;
    everyone_->wait(everyone_->all_reduce(Ref(&rounds), 1, comm::ReduceOp::max, Label{"rounds of reading"}));
    observe::Progress progress(
        {.label = fmt::format("verify {}", key), .total = bytes, .unit = "bytes", .output = console_});
    std::vector<uint32_t> sums(static_cast<size_t>(blocks));
    std::vector<int64_t> round(static_cast<size_t>(readers));
    for (int64_t first = 0; rounds > 0; --rounds, first += readers) {
      const int64_t mine = first + neighbours_->rank();
      if (mine < blocks)
        round[static_cast<size_t>(neighbours_->rank())] = data::checksum_of(file, data::checksum_block(bytes, mine));
      neighbours_->wait(neighbours_->all_gather(Ref(round.data()), 1, Label{"checksums of blocks"}));
      // A slow disk is waited for here, block by block: at the end it could be for longer than the timeout.
      everyone_->wait(everyone_->barrier(Label{"verification of data"}));
      for (int64_t i = 0; i < readers && first + i < blocks; ++i)
        sums[static_cast<size_t>(first + i)] = static_cast<uint32_t>(round[static_cast<size_t>(i)]);
      progress.update(std::min(bytes, (first + readers) * data::kChecksumBlock));
    }
    return sums;
  }

  void conclude(std::string_view key, int64_t bytes, bool noted, bool known) const {
    const std::string size = observe::format_bytes(static_cast<double>(bytes));
    const std::string hosts = world_.hosts() == 1 ? "" : fmt::format(" on each of {} hosts", world_.hosts());
    if (noted) {
      fmt::print(console_, "{}: all {} are what prepare wrote{}\n", key, size, hosts);
    } else if (known) {
      fmt::print(console_, "{}: all {} are what they were when their documents were found{}\n", key, size, hosts);
    } else {
      fmt::print(console_, "{}: prepare left no checksums beside it; all {} {}\n", key, size,
                 hosts.empty() ? "can be read" : "are the same" + hosts);
    }
  }

  comm::World& world_;
  std::FILE* console_;
  std::unique_ptr<comm::Communicator> everyone_, neighbours_;
};

}  // namespace

void verify_data(comm::World& world, const Config& config, std::FILE* console) {
  Verification verification(world, console);
  for (const auto& [key, list] : {std::pair{"data.train", &config.data.train}, {"data.valid", &config.data.valid}}) {
    for (size_t i = 0; i < list->entries.size(); ++i)
      verification.verify(entry_name(key, *list, i), list->entries[i].prefix);
  }
}

}  // namespace ridgeline::train
