#include "ridgeline/data/prepare_merge.h"

#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/data/dataset_writer.h"
#include "ridgeline/data/sharing_rounds.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kCopyBytes = int64_t{4} << 20;

// A part of tokens that lies in one block of .bin and one of its stream, or less.
struct Piece {
  size_t part = 0;
  int64_t from = 0;  // in the stream
  ByteRange to;      // in .bin
};

class Merge {
 public:
  Merge(const PartialDataset& dataset, const std::vector<StoredPart>& parts, const PrepareSharing& sharing)
      : dataset_(dataset), parts_(parts), sharing_(sharing) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const PartRecord& record = parts[i].record;
      RL_CHECK(record.part, ==, static_cast<int64_t>(i));
      const int64_t bytes = record.tokens * size_of(dataset.type());
      in_order_ = in_order_ && parts[i].stream == 0 && record.tokens_begin == bytes_;
      for (const ByteRange& piece : block_pieces({bytes_, bytes}))
        pieces_.push_back({i, record.tokens_begin + piece.first - bytes_, piece});
      bytes_ += bytes;
      documents_ += record.documents;
    }
  }

  // Of all of .bin.
  std::vector<uint32_t> checksums() {
    std::vector<uint32_t> sums = in_order_ ? recorded_sums() : copied_sums();
    std::vector<uint32_t> blocks(static_cast<size_t>(checksum_blocks(bytes_)));
    for (size_t i = 0; i < pieces_.size(); ++i) {
      uint32_t& block = blocks[static_cast<size_t>(pieces_[i].to.first / kChecksumBlock)];
      block = crc32c_combine(block, sums[i], static_cast<uint64_t>(pieces_[i].to.bytes));
    }
    return blocks;
  }

  void place(const fs::path& prefix, const DatasetNote& note) const {
    const fs::path tokens = in_order_ ? dataset_.file("tokens", 0) : dataset_.joined();
    {
      File file(tokens, File::Mode::update);
      file.resize(bytes_);
      file.sync();
    }
    const auto lengths = [&](const VisitLengths& visit) {
      for (const StoredPart& part : parts_) dataset_.read_lengths(part, visit);
    };
    place_dataset(prefix, dataset_.type(), documents_, lengths, note,
                  [&] { rename_durably(tokens, fs::absolute(with_suffix(prefix, ".bin"))); });
  }

 private:
  // Where .bin is the first stream, its blocks are those of the stream.
  std::vector<uint32_t> recorded_sums() const {
    std::vector<uint32_t> sums;
    for (const StoredPart& part : parts_) sums.insert(sums.end(), part.record.sums.begin(), part.record.sums.end());
    RL_CHECK(sums.size(), ==, pieces_.size());
    return sums;
  }

  std::vector<uint32_t> copied_sums() {
    if (sharing_.index == 0) File(dataset_.joined(), File::Mode::create).resize(bytes_);
    sharing_.meet();
    std::vector<int64_t> sums(pieces_.size());
    File out(dataset_.joined(), File::Mode::update);
    SharingRounds rounds(sharing_);
    for (size_t i = 0; i < pieces_.size();) {
      size_t end = i;
      while (end < pieces_.size() && pieces_[end].part == pieces_[i].part) ++end;
      if (parts_[pieces_[i].part].stream % sharing_.count == sharing_.index) copy_part(i, end, out, sums);
      rounds.go_on();
      i = end;
    }
    out.sync();
    out.close();
    rounds.finish();
    sharing_.sum(sums);
    std::vector<uint32_t> result;
    for (const int64_t sum : sums) result.push_back(static_cast<uint32_t>(sum));
    return result;
  }

  void copy_part(size_t first, size_t last, File& out, std::vector<int64_t>& sums) const {
    const StoredPart& part = parts_[pieces_[first].part];
    const File in(dataset_.file("tokens", part.stream), File::Mode::read);
    std::vector<std::byte> buffer(static_cast<size_t>(kCopyBytes));
    uint32_t copied = 0, recorded = 0;
    for (size_t i = first; i < last; ++i) {
      const Piece& piece = pieces_[i];
      uint32_t sum = 0;
      for (int64_t done = 0; done < piece.to.bytes; done += kCopyBytes) {
        const auto some = std::span(buffer).first(static_cast<size_t>(std::min(kCopyBytes, piece.to.bytes - done)));
        in.read_at(piece.from + done, some);
        out.write_at(piece.to.first + done, some);
        out.begin_sync(piece.to.first + done, std::ssize(some));
        sum = crc32c(some, sum);
      }
      sums[i] = sum;
      copied = crc32c_combine(copied, sum, static_cast<uint64_t>(piece.to.bytes));
    }
    const std::vector<ByteRange> ranges =
        block_pieces({part.record.tokens_begin, part.record.tokens * size_of(dataset_.type())});
    for (size_t i = 0; i < ranges.size(); ++i)
      recorded = crc32c_combine(recorded, part.record.sums[i], static_cast<uint64_t>(ranges[i].bytes));
    if (copied == recorded) return;
    throw Error(fmt::format("'{}' does not hold the tokens that were written to it (part {})", in.path().string(),
                            part.record.part),
                "Is its disk sound? The same command makes the part again.");
  }

  const PartialDataset& dataset_;
  const std::vector<StoredPart>& parts_;
  const PrepareSharing& sharing_;
  std::vector<Piece> pieces_;
  int64_t bytes_ = 0, documents_ = 0;
  bool in_order_ = true;
};

}  // namespace

void merge_parts(const PartialDataset& dataset, const std::vector<StoredPart>& parts, const fs::path& prefix,
                 DatasetNote note, const PrepareSharing& sharing) {
  Merge merge(dataset, parts, sharing);
  note.checksums = merge.checksums();
  if (sharing.index == 0) merge.place(prefix, note);
}

}  // namespace ridgeline::data
