#include "ridgeline/hub/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "ridgeline/base/error.h"

namespace ridgeline::hub {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;

class Digest {
 public:
  explicit Digest(const EVP_MD* algorithm) : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    RL_REQUIRE(context_ != nullptr && EVP_DigestInit_ex(context_.get(), algorithm, nullptr) == 1,
               "the hash library does not start");
  }
  void add(std::span<const std::byte> bytes) {
    RL_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()), ==, 1);
  }
  std::string text() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned size = 0;
    RL_CHECK(EVP_DigestFinal_ex(context_.get(), bytes.data(), &size), ==, 1);
    std::string result;
    for (unsigned i = 0; i < size; ++i) result += fmt::format("{:02x}", bytes[i]);
    return result;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

DigestKind digest_kind(std::string_view etag) {
  if (etag.find_first_not_of("0123456789abcdef") != std::string_view::npos) return DigestKind::none;
  return etag.size() == 64 ? DigestKind::sha256 : etag.size() == 40 ? DigestKind::git_sha1 : DigestKind::none;
}

std::string digest_of(const File& file, int64_t size, DigestKind kind) {
  RL_REQUIRE(kind != DigestKind::none, "'{}' has no hash to compare with", file.path().string());
  Digest digest(kind == DigestKind::sha256 ? EVP_sha256() : EVP_sha1());
  if (kind == DigestKind::git_sha1) {
    const std::string head = fmt::format("blob {}", size);
    digest.add(std::as_bytes(std::span(head.c_str(), head.size() + 1)));
  }
  std::vector<std::byte> piece(static_cast<size_t>(std::min(size, kPieceBytes)));
  for (int64_t at = 0; at < size; at += kPieceBytes) {
    const std::span<std::byte> part = std::span(piece).first(static_cast<size_t>(std::min(kPieceBytes, size - at)));
    file.read_at(at, part);
    digest.add(part);
  }
  return digest.text();
}

}  // namespace ridgeline::hub
