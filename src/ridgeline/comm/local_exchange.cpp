#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/kernels.h"
#include "ridgeline/comm/local_communicator.h"

namespace ridgeline::comm::detail {
namespace {

constexpr int64_t kStreamingMessage = 8 << 20;

uint64_t key_of(int receiver, uint64_t number) {
  return static_cast<uint64_t>(receiver + 1) << 40 | number;
}
void put_label(char (&field)[40], const char* text) {
  std::strncpy(field, text, sizeof(field) - 1);
  field[sizeof(field) - 1] = 0;
}

}  // namespace

Ticket LocalCommunicator::start_exchange(const Request& request) {
  const std::span<const Send> sends = request.sends;
  const std::span<const Receive> receives = request.receives;
  const Label& label = request.label;
  const MemberState& mine = board_.member(me_);
  const auto room = [&] {
    const uint64_t out =
        mine.messages_end.load(std::memory_order_relaxed) - mine.messages_begin.load(std::memory_order_relaxed);
    return out + sends.size() <= kMessages && incoming_end_ - incoming_begin_ + receives.size() <= kMessages;
  };
  if (!room()) world_.wait_until(*this, room);
  const uint64_t ticket =
      new_ticket(RequestKind::exchange, static_cast<int32_t>(sends.size() + receives.size()), label);
  for (const Receive& receive : receives) {
    Incoming& incoming = incoming_[incoming_end_ % kMessages];
    incoming.data = receive.data;
    incoming.count = receive.count;
    incoming.peer = receive.peer;
    incoming.key = key_of(me_, ++received_[static_cast<size_t>(receive.peer)]);
    incoming.ticket = ticket;
    incoming.message = nullptr;
    incoming.done = false;
    put_label(incoming.label, label.what);
    ++incoming_end_;
  }
  for (const Send& send : sends) publish(send, ticket, label);
  return {ticket};
}

void LocalCommunicator::publish(const Send& send, uint64_t ticket, const Label& label) {
  MemberState& mine = board_.member(me_);
  const uint64_t number = mine.messages_end.load(std::memory_order_relaxed);
  outgoing_[number % kMessages] = {static_cast<const std::byte*>(send.data.data), ticket, send.peer};
  Message& message = board_.message(me_, number);
  message.dtype = send.data.dtype;
  message.count = send.count;
  message.data = send.count == 0
                     ? BufferPlace{}
                     : world_.host().place_of(world_.local(), send.data.data, send.count * size_of(send.data.dtype));
  put_label(message.label, label.what);
  message.wanted.store(0, std::memory_order_relaxed);
  message.finished.store(0, std::memory_order_relaxed);
  message.filled.store(0, std::memory_order_relaxed);
  message.taken.store(0, std::memory_order_relaxed);
  message.stage = -1;
  message.key.store(key_of(send.peer, ++sent_[static_cast<size_t>(send.peer)]), std::memory_order_release);
  mine.messages_end.store(number + 1, std::memory_order_release);
  ring(send.peer);
}

bool LocalCommunicator::progress_messages() {
  bool moved = false;
  for (uint64_t i = incoming_begin_; i != incoming_end_; ++i) {
    Incoming& incoming = incoming_[i % kMessages];
    if (!incoming.done) moved = receive(incoming) || moved;
  }
  while (incoming_begin_ != incoming_end_ && incoming_[incoming_begin_ % kMessages].done) ++incoming_begin_;

  MemberState& mine = board_.member(me_);
  const uint64_t end = mine.messages_end.load(std::memory_order_relaxed);
  bool oldest = true;  // the ring is freed from its oldest end; a message finishes its ticket when its turn comes
  for (uint64_t i = mine.messages_begin.load(std::memory_order_relaxed); i != end; ++i) {
    Message& message = board_.message(me_, i);
    if (message.finished.load(std::memory_order_acquire) == 0) {
      oldest = false;
      if (message.data.place == BufferPlace::kStaged) moved = send_staged(i) || moved;
      continue;
    }
    Outgoing& outgoing = outgoing_[i % kMessages];
    if (outgoing.ticket != 0) {
      if (message.stage >= 0) stages_used_ &= ~(1U << message.stage);
      finish(outgoing.ticket);
      outgoing.ticket = 0;
      moved = true;
    }
    if (oldest) {
      message.key.store(0, std::memory_order_relaxed);
      mine.messages_begin.store(i + 1, std::memory_order_release);
    }
  }
  return moved;
}

// Takes what the sender has for this receive; true when anything moved.
bool LocalCommunicator::receive(Incoming& incoming) {
  if (incoming.message == nullptr) {
    const MemberState& sender = board_.member(incoming.peer);
    const uint64_t end = sender.messages_end.load(std::memory_order_acquire);
    for (uint64_t i = sender.messages_begin.load(std::memory_order_acquire); i < end && incoming.message == nullptr;
         ++i) {
      Message& message = board_.message(incoming.peer, i);
      if (message.key.load(std::memory_order_acquire) == incoming.key) incoming.message = &message;
    }
    if (incoming.message == nullptr) return false;
    check_message(incoming);
  }
  Message& message = *incoming.message;
  const int64_t bytes = incoming.count * size_of(incoming.data.dtype);
  const Host& host = world_.host();
  std::atomic<uint32_t>& busy = host.state(world_.local()).busy;
  if (message.data.place != BufferPlace::kStaged) {
    busy.store(1, std::memory_order_seq_cst);
    if (host.failed() || host.board().stopping.load(std::memory_order_seq_cst) != 0) {
      busy.store(0, std::memory_order_release);
      return false;
    }
    void* output = incoming.data.data;
    if (bytes > 0) {
      copy(host.address_of(locals_[static_cast<size_t>(incoming.peer)], message.data), {&output, 1}, bytes,
           bytes >= kStreamingMessage);
    }
    busy.store(0, std::memory_order_release);
  } else {
    const int64_t taken = message.taken.load(std::memory_order_relaxed);
    const int64_t filled = message.filled.load(std::memory_order_acquire);
    if (filled == taken) {
      if (message.wanted.load(std::memory_order_relaxed) != 0) return false;
      message.wanted.store(1, std::memory_order_release);
      ring(incoming.peer);
      return true;
    }
    std::memcpy(incoming.data.as<std::byte>() + taken, board_.message_stage(incoming.peer, message.stage),
                static_cast<size_t>(filled - taken));
    message.taken.store(filled, std::memory_order_release);
    if (filled < bytes) {
      ring(incoming.peer);
      return true;
    }
  }
  message.finished.store(1, std::memory_order_release);
  ring(incoming.peer);
  incoming.done = true;
  finish(incoming.ticket);
  return true;
}

// Fills the message's stage when the receiver is there and has emptied it. A stage is taken only for a receiver that is
// waiting, so it is always given back.
bool LocalCommunicator::send_staged(uint64_t number) {
  Message& message = board_.message(me_, number);
  if (message.wanted.load(std::memory_order_acquire) == 0) return false;
  const int64_t bytes = message.count * size_of(message.dtype);
  const int64_t filled = message.filled.load(std::memory_order_relaxed);
  if (filled == bytes || message.taken.load(std::memory_order_acquire) != filled) return false;
  if (message.stage < 0) {
    const int free = std::countr_one(stages_used_);
    if (free >= Board::kMessageStages) return false;
    stages_used_ |= 1U << free;
    message.stage = free;  // published by `filled`
  }
  const Outgoing& outgoing = outgoing_[number % kMessages];
  const int64_t length = std::min(bytes - filled, board_.message_stage_bytes());
  std::memcpy(board_.message_stage(me_, message.stage), outgoing.data + filled, static_cast<size_t>(length));
  message.filled.store(filled + length, std::memory_order_release);
  ring(outgoing.peer);
  return true;
}

void LocalCommunicator::check_message(const Incoming& incoming) const {
  const Message& message = *incoming.message;
  if (message.count == incoming.count && message.dtype == incoming.data.dtype) return;
  const int sender = ranks_[static_cast<size_t>(incoming.peer)];
  world_.disagree(sender, name_, waiting_in(),
                  fmt::format("rank {} sends {} {} in exchange '{}', rank {} receives {} {} in exchange '{}'", sender,
                              message.count, name_of(message.dtype), message.label, world_.rank(), incoming.count,
                              name_of(incoming.data.dtype), incoming.label));
}

}  // namespace ridgeline::comm::detail
