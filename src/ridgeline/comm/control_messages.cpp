#include "ridgeline/comm/control_messages.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace ridgeline::comm::detail {
namespace {

struct ControlHeader {
  char protocol[4];
  uint32_t kind;
  uint64_t bytes;  // that follow
};
constexpr char kProtocol[4] = {'R', 'L', 'c', '1'};

template <size_t kChars>
bool ends(const char (&field)[kChars]) {
  return std::memchr(field, 0, kChars) != nullptr;
}

bool good(const FailureNotice& notice, int hosts) {
  return notice.source >= 0 && notice.source < hosts && notice.rank >= -1 && ends(notice.host) &&
         ends(notice.operation) && ends(notice.what) && ends(notice.next);
}
bool good(const Verdict& verdict, int hosts) {
  return good(verdict.failure, hosts);
}
bool good(const Hello& hello, int hosts) {
  return hello.host >= 0 && hello.host < hosts;
}
bool good(const Stall& stall, int /*hosts*/) {
  return ends(stall.operation) && ends(stall.what);
}
bool good(const Inquiry& inquiry, int /*hosts*/) {
  return inquiry.milliseconds >= 0 && inquiry.milliseconds <= 60'000;
}
bool good(const Suspect& suspect, int hosts) {
  return suspect.standing >= Standing::stopped && suspect.standing <= Standing::ended && suspect.rank >= -1 &&
         suspect.host >= 0 && suspect.host < hosts && ends(suspect.position);
}
bool good(const Answer& answer, int hosts) {
  if (answer.count < 0 || answer.count > kSuspects) return false;
  for (int i = 0; i < answer.count; ++i) {
    if (!good(answer.suspects[i], hosts)) return false;
  }
  return true;
}
bool good(const Alive& /*message*/, int /*hosts*/) {
  return true;
}
bool good(const Departed& /*message*/, int /*hosts*/) {
  return true;
}
bool good(const Leave& /*message*/, int /*hosts*/) {
  return true;
}

// The payload as the alternative of number `kind`, where the length is that of the alternative.
template <size_t kKind = 0>
std::optional<ControlMessage> message_of(uint32_t kind, std::span<const std::byte> payload, int hosts) {
  if constexpr (kKind == std::variant_size_v<ControlMessage>) {
    return std::nullopt;
  } else {
    using Message = std::variant_alternative_t<kKind, ControlMessage>;
    static_assert(std::has_unique_object_representations_v<Message>, "no padding may leave this process");
    if (kind != kKind) return message_of<kKind + 1>(kind, payload, hosts);
    if (payload.size() != sizeof(Message)) return std::nullopt;
    Message message;
    std::memcpy(&message, payload.data(), sizeof(Message));
    if (!good(message, hosts)) return std::nullopt;
    return message;
  }
}

template <size_t kKind = 0>
constexpr uint64_t largest() {
  if constexpr (kKind == std::variant_size_v<ControlMessage>) {
    return 0;
  } else {
    return std::max<uint64_t>(sizeof(std::variant_alternative_t<kKind, ControlMessage>), largest<kKind + 1>());
  }
}

}  // namespace

FailureNotice notice_of(const Failure& failure, int source, int64_t when) {
  FailureNotice notice{};
  notice.when = when;
  notice.source = source;
  notice.rank = failure.rank;
  notice.death = failure.death ? 1 : 0;
  notice.refusal = failure.refusal ? 1 : 0;
  put_text(notice.host, failure.host);
  put_text(notice.operation, failure.operation);
  put_text(notice.what, failure.what);
  put_text(notice.next, failure.next);
  return notice;
}

Failure failure_of(const FailureNotice& notice) {
  return {.rank = notice.rank,
          .host = notice.host,
          .operation = notice.operation,
          .what = notice.what,
          .next = notice.next,
          .refusal = notice.refusal != 0,
          .death = notice.death != 0};
}

std::vector<std::byte> encode(const ControlMessage& message) {
  return std::visit(
      [&](const auto& payload) {
        ControlHeader header{};
        std::memcpy(header.protocol, kProtocol, sizeof(kProtocol));
        header.kind = static_cast<uint32_t>(message.index());
        header.bytes = sizeof(payload);
        std::vector<std::byte> bytes(sizeof(header) + sizeof(payload));
        std::memcpy(bytes.data(), &header, sizeof(header));
        std::memcpy(bytes.data() + sizeof(header), &payload, sizeof(payload));
        return bytes;
      },
      message);
}

void ControlReader::add(std::span<const std::byte> bytes) {
  if (!broken_) bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

std::optional<ControlMessage> ControlReader::next(int hosts) {
  ControlHeader header{};
  if (broken_ || bytes_.size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, bytes_.data(), sizeof(header));
  if (std::memcmp(header.protocol, kProtocol, sizeof(kProtocol)) != 0 || header.bytes > largest()) {
    broken_ = true;
    return std::nullopt;
  }
  if (bytes_.size() - sizeof(header) < header.bytes) return std::nullopt;
  const std::span<const std::byte> payload(bytes_.data() + sizeof(header), header.bytes);
  std::optional<ControlMessage> message = message_of(header.kind, payload, hosts);
  broken_ = !message;
  bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<int64_t>(sizeof(header) + header.bytes));
  return message;
}

}  // namespace ridgeline::comm::detail
