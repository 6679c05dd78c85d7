// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78, initial and final complement): the checksum of checkpoints and
// of TensorBoard records. Combinable: a file's checksum follows from those of its ranges, so that every rank sums only
// what it wrote.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace ridgeline {

// CRC-32C of `bytes`, continuing from `previous` (the CRC-32C of what stands before; 0 at the start).
// crc32c("123456789") = 0xE3069283. Uses the SSE4.2 instruction where the machine has it.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t previous = 0);

// CRC-32C of A followed by B, from the two checksums and the length of B in bytes. O(log length).
uint32_t crc32c_combine(uint32_t first, uint32_t second, uint64_t second_length);

// As files hold it: eight hexadecimal digits. Reading anything else is an Error that names `where` it stands.
std::string checksum_text(uint32_t sum);
uint32_t parse_checksum(std::string_view text, std::string_view where);

}  // namespace ridgeline
