#include "ridgeline/comm/communicator.h"

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/board.h"
#include "ridgeline/comm/kernels.h"

namespace ridgeline::comm {
namespace {

constexpr auto kMessages = static_cast<size_t>(detail::kMessages);

}  // namespace

Ticket Communicator::all_reduce(Ref buffer, int64_t count, ReduceOp op, const Label& label) {
  return request(
      {.kind = RequestKind::all_reduce, .buffer = buffer, .received = {}, .count = count, .op = op, .label = label});
}
Ticket Communicator::reduce_scatter(Ref buffer, int64_t shard, ReduceOp op, const Label& label) {
  return request({.kind = RequestKind::reduce_scatter,
                  .buffer = buffer,
                  .received = {},
                  .count = shard,
                  .op = op,
                  .label = label});
}
Ticket Communicator::all_gather(Ref buffer, int64_t shard, const Label& label) {
  return request({.kind = RequestKind::all_gather, .buffer = buffer, .received = {}, .count = shard, .label = label});
}
Ticket Communicator::broadcast(Ref buffer, int64_t count, int root, const Label& label) {
  return request(
      {.kind = RequestKind::broadcast, .buffer = buffer, .received = {}, .count = count, .root = root, .label = label});
}
Ticket Communicator::all_to_all(ConstRef send, Ref receive, int64_t part, const Label& label) {
  RL_CHECK(name_of(send.dtype), ==, name_of(receive.dtype));
  // A backend only reads it.
  return request({.kind = RequestKind::all_to_all,
                  .buffer = Ref(const_cast<void*>(send.data), send.dtype),
                  .received = receive,
                  .count = part,
                  .label = label});
}
Ticket Communicator::exchange(std::span<const Send> sends, std::span<const Receive> receives, const Label& label) {
  return request({.kind = RequestKind::exchange,
                  .buffer = {},
                  .received = {},
                  .sends = sends,
                  .receives = receives,
                  .label = label});
}
Ticket Communicator::barrier(const Label& label) {
  return request({.kind = RequestKind::barrier, .buffer = {}, .received = {}, .label = label});
}

Ticket Communicator::request(const Request& request) {
  const char* const name = detail::name_of(request.kind);
  RL_REQUIRE(request.count >= 0, "{} of {} elements", name, request.count);
  RL_REQUIRE(!reduces(request.kind) || detail::reducible(request.buffer.dtype), "{} of {}", name,
             name_of(request.buffer.dtype));
  RL_REQUIRE(request.root >= 0 && request.root < size(), "{} from rank {} of {}", name, request.root, size());
  RL_REQUIRE(request.sends.size() + request.receives.size() <= kMessages, "{} of {} messages, at most {}", name,
             request.sends.size() + request.receives.size(), kMessages);
  const auto sound = [&](const auto& message) {
    return message.peer >= 0 && message.peer < size() && message.count >= 0;
  };
  for (const Send& send : request.sends)
    RL_REQUIRE(sound(send), "send of {} elements to rank {} of {}", send.count, send.peer, size());
  for (const Receive& receive : request.receives)
    RL_REQUIRE(sound(receive), "receive of {} elements from rank {} of {}", receive.count, receive.peer, size());
  return start(request);
}

int64_t traffic_of(const Request& request, int rank, int ranks) {
  const int64_t bytes = request.count * size_of(request.buffer.dtype);
  switch (request.kind) {
    case RequestKind::all_reduce:
      return all_reduce_traffic(ranks, bytes);
    case RequestKind::reduce_scatter:
    case RequestKind::all_gather:
    case RequestKind::all_to_all:
      return part_traffic(ranks, ranks * bytes);
    case RequestKind::broadcast:
      return bytes;
    case RequestKind::barrier:
      return 0;
    case RequestKind::exchange: {
      int64_t sent = 0, received = 0;
      for (const Send& send : request.sends) sent += send.peer == rank ? 0 : send.count * size_of(send.data.dtype);
      for (const Receive& receive : request.receives)
        received += receive.peer == rank ? 0 : receive.count * size_of(receive.data.dtype);
      return std::max(sent, received);
    }
  }
  return 0;
}

}  // namespace ridgeline::comm
