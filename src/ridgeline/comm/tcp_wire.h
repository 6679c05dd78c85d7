// A run whose processes find each other at a rendezvous, and pass messages over TCP.
#pragma once

#include <memory>

#include "ridgeline/comm/rendezvous.h"
#include "ridgeline/comm/tcp_channel.h"
#include "ridgeline/comm/wire.h"

namespace ridgeline::comm::detail {

class TcpWire : public Wire {
 public:
  // Meets all ranks. Others reach a rank by the address it has on the way to rank 0, or by one of the interface that
  // RIDGELINE_INTERFACE names. Throws Error, on all ranks where it can; `tell` as Rendezvous has it.
  explicit TcpWire(const RendezvousSetup& setup, Rendezvous::Tell tell = {});
  const char* name() const override { return "tcp"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_gather(const void* own, void* all, int64_t bytes) override { rendezvous_.all_gather(own, all, bytes); }
  void broadcast(void* data, int64_t bytes, int root) override { rendezvous_.broadcast(data, bytes, root); }
  std::unique_ptr<Channel> channel(std::span<const int> ranks, uint64_t key) override;

 private:
  int rank_, size_;
  Rendezvous rendezvous_;
  std::unique_ptr<ControlListener> listener_;
  std::unique_ptr<TcpPeers> peers_;
};

// What every rank tells every other.
struct TcpIntroduction {
  TcpCard card;         // its own address as it is, maybe one of its host's loopback; port 0 where it cannot listen
  ControlAddress root;  // rank 0's, as it sees it; all 0 for rank 0 itself
};

// Where the others reach each rank. Ranks on rank 0's host may know that only by a loopback address, which means
// nothing elsewhere: they get one that another rank has reached it by. Pure.
std::vector<TcpCard> cards_of(const std::vector<TcpIntroduction>& everyone);

}  // namespace ridgeline::comm::detail
