#include "ridgeline/data/decompress.h"

#include <fmt/format.h>
#include <isa-l/igzip_lib.h>
#include <lzma.h>
#include <zstd.h>

#include <algorithm>
#include <limits>

#include "ridgeline/base/error.h"

namespace ridgeline::data {
namespace {

using namespace std::string_view_literals;

constexpr size_t kInputBytes = size_t{1} << 18;
constexpr size_t kBeyondInput = 64;  // readable, for a library that looks further than it was told

// What the three have in common: input in blocks, and what to say of it when it is bad.
class Decompressor : public ByteSource {
 public:
  Decompressor(std::unique_ptr<ByteSource> packed, std::string name)
      : packed_(std::move(packed)), name_(std::move(name)), buffer_(kInputBytes + kBeyondInput, '\0') {}

  size_t read(std::span<char> out) final {
    size_t done = 0;
    while (done < out.size() && !ended_) {
      if (input_.empty() && !input_ended_) refill();
      done += step(out.subspan(done));
    }
    return done;
  }

  int64_t position() const final { return packed_->position() - static_cast<int64_t>(input_.size()); }

 protected:
  // Decompresses some of input_ into `out` and says how much of that came out. Without input: input_ended_.
  virtual size_t step(std::span<char> out) = 0;

  [[noreturn]] void fail(std::string_view what) const {
    throw Error(fmt::format("'{}' {} at byte {}", name_, what, position()),
                "Get the file again: what is there is not whole.");
  }
  [[noreturn]] void cut(std::string_view format) const {
    throw Error(fmt::format("'{}' is cut: it ends at byte {}, in the middle of its {} data", name_, position(), format),
                "Get the file again: what is there is not whole.");
  }

  std::string_view input_;  // not yet used
  bool input_ended_ = false;
  bool ended_ = false;

 private:
  void refill() {
    const size_t got = packed_->read(std::span(buffer_).first(kInputBytes));
    input_ = std::string_view(buffer_).substr(0, got);
    input_ended_ = got < kInputBytes;
  }

  std::unique_ptr<ByteSource> packed_;
  std::string name_, buffer_;
};

class GzipBytes final : public Decompressor {
 public:
  using Decompressor::Decompressor;

 private:
  size_t step(std::span<char> out) override {
    if (!in_member_ && !begin_member()) return 0;
    state_->next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(input_.data()));
    state_->avail_in = static_cast<uint32_t>(input_.size());
    state_->next_out = reinterpret_cast<uint8_t*>(out.data());
    const auto room = static_cast<uint32_t>(std::min<size_t>(out.size(), std::numeric_limits<uint32_t>::max()));
    state_->avail_out = room;
    const bool last = input_.empty();
    const int code = in_header_ ? isal_read_gzip_header(state_.get(), &header_) : isal_inflate(state_.get());
    // ISA-L 2.30 may take a few bytes more of damaged data than there are, and count below zero.
    if (state_->avail_in > input_.size()) refuse(ISAL_INVALID_BLOCK);
    input_.remove_prefix(input_.size() - state_->avail_in);
    const size_t done = room - state_->avail_out;
    if (code != ISAL_DECOMP_OK && !(in_header_ && code == ISAL_END_INPUT)) refuse(code);
    if (in_header_) {
      if (last) cut("gzip");
      in_header_ = code == ISAL_END_INPUT;
      return 0;
    }
    if (state_->block_state == ISAL_BLOCK_FINISH) {
      in_member_ = false;
      ++members_;
    } else if (last && done == 0) {
      cut("gzip");
    }
    return done;
  }

  // False when there is no other one, or more input must be seen.
  bool begin_member() {
    const bool padded = skip_zeros();
    if (input_.empty()) {
      ended_ = input_ended_;
      return false;
    }
    if (padded) fail("has other data after zero bytes that follow its last gzip member,");
    if (input_[0] != '\x1f') refuse(ISAL_INVALID_WRAPPER);  // before it waits for a whole header
    isal_inflate_init(state_.get());
    state_->crc_flag = ISAL_GZIP_NO_HDR_VER;  // CRC-32 and length are compared
    isal_gzip_header_init(&header_);
    return in_member_ = in_header_ = true;
  }

  // Whether there were any since the last member.
  bool skip_zeros() {
    if (members_ == 0) return false;
    const size_t zeros = std::min(input_.find_first_not_of('\0'), input_.size());
    input_.remove_prefix(zeros);
    return padded_ |= zeros > 0;
  }

  [[noreturn]] void refuse(int code) const {
    switch (code) {
      case ISAL_INVALID_WRAPPER:
      case ISAL_UNSUPPORTED_METHOD:
        fail(members_ > 0 ? "has data after its last gzip member that is none," : "has a damaged gzip header");
      case ISAL_INCORRECT_CHECKSUM:
        fail("is damaged: its gzip checksum (CRC-32 or length) differs from that of the data");
      default:
        fail("is damaged: its gzip data makes no sense");
    }
  }

  std::unique_ptr<inflate_state> state_ = std::make_unique<inflate_state>();
  // ISA-L 2.30 forgets what a header holds when it reads one by itself, and the header comes in two parts.
  isal_gzip_header header_{};
  bool in_member_ = false, in_header_ = false, padded_ = false;
  int64_t members_ = 0;
};

class ZstandardBytes final : public Decompressor {
 public:
  ZstandardBytes(std::unique_ptr<ByteSource> packed, std::string name)
      : Decompressor(std::move(packed), std::move(name)), stream_(ZSTD_createDStream(), &ZSTD_freeDStream) {
    RL_REQUIRE(stream_ != nullptr, "no memory for a Zstandard stream");
    ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound);
  }

 private:
  size_t step(std::span<char> out) override {
    const bool last = input_.empty();
    if (last && !in_frame_) {
      ended_ = true;
      return 0;
    }
    ZSTD_inBuffer from{input_.data(), input_.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    const size_t left = ZSTD_decompressStream(stream_.get(), &to, &from);
    input_.remove_prefix(from.pos);
    if (ZSTD_isError(left) != 0) {
      fail(fmt::format("is damaged: its Zstandard data makes no sense ({})", ZSTD_getErrorName(left)));
    }
    in_frame_ = left != 0;
    if (last && in_frame_ && to.pos == 0) cut("Zstandard");
    return to.pos;
  }

  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  bool in_frame_ = false;
};

class XzBytes final : public Decompressor {
 public:
  XzBytes(std::unique_ptr<ByteSource> packed, std::string name) : Decompressor(std::move(packed), std::move(name)) {
    const lzma_ret code = lzma_stream_decoder(&stream_, std::numeric_limits<uint64_t>::max(),
                                              LZMA_CONCATENATED | LZMA_TELL_UNSUPPORTED_CHECK);
    RL_REQUIRE(code == LZMA_OK, "no memory for an xz stream");
  }
  ~XzBytes() override { lzma_end(&stream_); }
  XzBytes(const XzBytes&) = delete;
  XzBytes& operator=(const XzBytes&) = delete;

 private:
  size_t step(std::span<char> out) override {
    stream_.next_in = reinterpret_cast<const uint8_t*>(input_.data());
    stream_.avail_in = input_.size();
    stream_.next_out = reinterpret_cast<uint8_t*>(out.data());
    stream_.avail_out = out.size();
    const lzma_ret code = lzma_code(&stream_, input_ended_ ? LZMA_FINISH : LZMA_RUN);
    input_.remove_prefix(input_.size() - stream_.avail_in);
    switch (code) {
      case LZMA_OK:
        break;
      case LZMA_STREAM_END:
        ended_ = true;
        break;
      case LZMA_BUF_ERROR:
        cut("xz");
      case LZMA_UNSUPPORTED_CHECK:
        fail("has a kind of checksum that this xz library cannot compare,");
      case LZMA_MEM_ERROR:
        fail("takes more memory to unpack its xz data than there is,");
      default:
        fail("is damaged: its xz data makes no sense, or a checksum differs,");
    }
    return out.size() - stream_.avail_out;
  }

  lzma_stream stream_ = LZMA_STREAM_INIT;
};

}  // namespace

Compression compression_of(std::string_view start) {
  if (start.starts_with("\x1f\x8b\x08"sv)) return Compression::gzip;
  if (start.starts_with("\xfd\x37zXZ\0"sv)) return Compression::xz;
  if (start.starts_with("\x28\xb5\x2f\xfd"sv)) return Compression::zstandard;
  // A skippable frame: pzstd begins with one.
  const bool skippable = start.size() >= 4 && (start[0] & 0xF0) == 0x50 && start.substr(1, 3) == "\x2a\x4d\x18"sv;
  return skippable ? Compression::zstandard : Compression::none;
}

std::string_view name_of(Compression compression) {
  switch (compression) {
    case Compression::none:
      return "";
    case Compression::gzip:
      return "gzip";
    case Compression::zstandard:
      return "Zstandard";
    case Compression::xz:
      return "xz";
  }
  RL_NO_CASE(compression);
}

std::unique_ptr<ByteSource> decompress(Compression compression, std::unique_ptr<ByteSource> packed, std::string name) {
  switch (compression) {
    case Compression::none:
      return packed;
    case Compression::gzip:
      return std::make_unique<GzipBytes>(std::move(packed), std::move(name));
    case Compression::zstandard:
      return std::make_unique<ZstandardBytes>(std::move(packed), std::move(name));
    case Compression::xz:
      return std::make_unique<XzBytes>(std::move(packed), std::move(name));
  }
  RL_NO_CASE(compression);
}

}  // namespace ridgeline::data
