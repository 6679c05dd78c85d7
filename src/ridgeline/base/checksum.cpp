#include "ridgeline/base/checksum.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstring>

#include "ridgeline/base/error.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace ridgeline {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78U;

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) ? kPolynomial : 0U);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kTable = make_table();

uint32_t update_portable(uint32_t crc, const unsigned char* data, size_t size) {
  for (size_t i = 0; i < size; ++i) crc = (crc >> 8) ^ kTable[(crc ^ data[i]) & 0xFFU];
  return crc;
}

// A linear map over GF(2)^32, one column per bit.
using Matrix = std::array<uint32_t, 32>;

uint32_t times(const Matrix& matrix, uint32_t vector) {
  uint32_t sum = 0;
  for (int i = 0; vector != 0; vector >>= 1, ++i) {
    if (vector & 1U) sum ^= matrix[i];
  }
  return sum;
}

Matrix square(const Matrix& matrix) {
  Matrix result{};
  for (int i = 0; i < 32; ++i) result[i] = times(matrix, matrix[i]);
  return result;
}

// The effect of `length` zero bytes on a CRC register.
uint32_t shift(uint32_t crc, uint64_t length) {
  Matrix zeros{};  // one zero bit
  zeros[0] = kPolynomial;
  for (int i = 1; i < 32; ++i) zeros[i] = 1U << (i - 1);
  for (int i = 0; i < 3; ++i) zeros = square(zeros);  // one zero byte
  for (; length != 0; length >>= 1) {
    if (length & 1U) crc = times(zeros, crc);
    zeros = square(zeros);
  }
  return crc;
}

#if defined(__x86_64__)
// Three interleaved streams hide the instruction's latency of three cycles; their registers are joined by shift().
constexpr size_t kStream = 4096;

__attribute__((target("sse4.2"))) uint32_t update_sse42(uint32_t crc, const unsigned char* data, size_t size) {
  static const Matrix shift_one = [] {
    Matrix m{};
    for (int i = 0; i < 32; ++i) m[i] = shift(1U << i, kStream);
    return m;
  }();
  const auto load = [](const unsigned char* p) {
    uint64_t word = 0;
    std::memcpy(&word, p, sizeof word);
    return word;
  };
  while (size >= 3 * kStream) {
    uint64_t a = crc, b = 0, c = 0;
    for (size_t i = 0; i < kStream; i += 8) {
      a = _mm_crc32_u64(a, load(data + i));
      b = _mm_crc32_u64(b, load(data + kStream + i));
      c = _mm_crc32_u64(c, load(data + 2 * kStream + i));
    }
    crc = times(shift_one, static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b);
    crc = times(shift_one, crc) ^ static_cast<uint32_t>(c);
    data += 3 * kStream;
    size -= 3 * kStream;
  }
  uint64_t wide = crc;
  for (; size >= 8; data += 8, size -= 8) wide = _mm_crc32_u64(wide, load(data));
  crc = static_cast<uint32_t>(wide);
  for (; size > 0; ++data, --size) crc = _mm_crc32_u8(crc, *data);
  return crc;
}
#endif

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t previous) {
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
#if defined(__x86_64__)
  static const bool fast = __builtin_cpu_supports("sse4.2") != 0;
  if (fast) return ~update_sse42(~previous, data, bytes.size());
#endif
  return ~update_portable(~previous, data, bytes.size());
}

uint32_t crc32c_combine(uint32_t first, uint32_t second, uint64_t second_length) {
  return shift(first, second_length) ^ second;
}

std::string checksum_text(uint32_t sum) {
  return fmt::format("{:08x}", sum);
}

uint32_t parse_checksum(std::string_view text, std::string_view where) {
  uint32_t sum = 0;
  const auto [stop, code] = std::from_chars(text.data(), text.data() + text.size(), sum, 16);
  if (text.size() == 8 && code == std::errc{} && stop == text.data() + text.size()) return sum;
  throw Error(fmt::format("'{}': '{}' is no checksum of eight hexadecimal digits", where, text.substr(0, 20)));
}

}  // namespace ridgeline
