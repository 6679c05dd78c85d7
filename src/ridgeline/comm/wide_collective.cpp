#include <algorithm>
#include <cstring>

#include "ridgeline/comm/kernels.h"
#include "ridgeline/comm/wide_communicator.h"

namespace ridgeline::comm::detail {

void WideCommunicator::begin_rounds() {
  const Terms& greeting = oldest().greeting;
  const int64_t bytes = greeting.count * element_bytes() * (by_parts(greeting.kind) ? n_ : 1);
  if (bytes > 0) neighbour(me_).place = world_.host().place_of(world_.local(), oldest().first.data, bytes);
  round_ = 0;
  next_round();
}

// Elements of a slice in one round; the same on every rank, whether its buffer is staged or not.
int64_t WideCommunicator::round_length() const {
  const Terms& greeting = oldest().greeting;
  int64_t most = kStageBytes / (n_ * element_bytes());
  if (reduces(greeting.kind)) {
    const Summands& summands = layout_.summands(greeting.dtype);
    most = std::min(most, kScratchBytes / (summands.slots * size_of(summands.travelling(greeting.dtype))));
  }
  return std::max<int64_t>(most / 64 * 64, 1);
}

// A round handles `length_` elements from `begin_` of every part; where there are no parts, n slices from `begin_` of
// the buffer.
void WideCommunicator::next_round() {
  const Terms& greeting = oldest().greeting;
  const int64_t slices = by_parts(greeting.kind) ? 1 : n_;
  const int64_t most = round_length();
  begin_ = round_ * most * slices;
  if (begin_ >= greeting.count) return finish();
  length_ = std::min(most, (greeting.count - begin_ + slices - 1) / slices);
  if (greeting.kind == RequestKind::all_to_all) return post_parts();
  if (greeting.kind == RequestKind::all_gather) return enter_spread();
  enter_ready();
}

void WideCommunicator::advance_round() {
  const RequestKind kind = oldest().greeting.kind;
  switch (phase_) {
    case Phase::idle:
    case Phase::greet:
      return;
    case Phase::ready:
      return kind == RequestKind::broadcast ? gather_from_root() : enter_gather();
    case Phase::gather:
      if (reduces(kind)) reduce_slice();
      return kind == RequestKind::reduce_scatter ? enter(Phase::leave) : enter_spread();
    case Phase::spread:
      if (kind != RequestKind::all_to_all) return enter_share();
      ++round_;
      return next_round();
    case Phase::share:
      read_neighbours();
      return enter(Phase::leave);
    case Phase::leave:
      ++round_;
      return next_round();
  }
}

// Of the phases that end when all neighbours have arrived.
void WideCommunicator::enter(Phase phase) {
  phase_ = phase;
  arrive();
}

WideCommunicator::Slice WideCommunicator::slice(int owner) const {
  const Terms& greeting = oldest().greeting;
  const bool parts = by_parts(greeting.kind);
  const int64_t end = parts ? (owner + 1) * greeting.count : greeting.count;
  const int64_t at = parts ? owner * greeting.count + begin_ : std::min(begin_ + owner * length_, end);
  return {at, std::min(end - at, length_)};
}

std::byte* WideCommunicator::own(int owner) const {
  return oldest().first.as<std::byte>() + slice(owner).at * element_bytes();
}

std::byte* WideCommunicator::view(int member, int owner) const {
  if (member == me_) return own(owner);
  const BufferPlace& place = neighbour(member).place;
  if (place.place == BufferPlace::kStaged) return stage(member, owner);
  const int local = world_.host().local_rank(ranks_[static_cast<size_t>(member)]);
  return world_.host().address_of(local, place) + slice(owner).at * element_bytes();
}

// Of slices, every one, or those that neighbours get from this rank.
void WideCommunicator::fill_stage(bool every_slice) {
  if (layout_.members(host_).size() == 1 || neighbour(me_).place.place != BufferPlace::kStaged) return;
  for (int owner = 0; owner < n_; ++owner) {
    if (!every_slice && !is_partner_of(owner)) continue;
    std::memcpy(stage(me_, owner), own(owner), static_cast<size_t>(slice(owner).length * element_bytes()));
  }
}

void WideCommunicator::enter_ready() {
  const Terms& greeting = oldest().greeting;
  if (reduces(greeting.kind) || greeting.root == me_) fill_stage(true);
  enter(Phase::ready);
}

void* WideCommunicator::scratch_slot(int slot) const {
  const DType dtype = oldest().greeting.dtype;
  return scratch_.get() + slot * length_ * size_of(layout_.summands(dtype).travelling(dtype));
}

// A summand of this host over a slice: where it lies already, or summed into a slot.
void* WideCommunicator::sum_here(const Summand& summand, int owner, int slot) {
  const Terms& greeting = oldest().greeting;
  const DType travelling = layout_.summands(greeting.dtype).travelling(greeting.dtype);
  if (summand.count == 1 && travelling == greeting.dtype) return view(summand.first, owner);
  parts_.clear();
  for (int i = 0; i < summand.count; ++i) parts_.push_back(view(summand.first + i, owner));
  void* sum = scratch_slot(slot);
  reduce({.input = greeting.dtype,
          .output = travelling,
          .op = greeting.op,
          .group_sizes = {&summand.count, 1},
          .sources = parts_,
          .outputs = {&sum, 1},
          .count = slice(owner).length});
  return sum;
}

void WideCommunicator::enter_gather() {
  phase_ = Phase::gather;
  const DType dtype = oldest().greeting.dtype;
  const Summands& summands = layout_.summands(dtype);
  const int64_t size = size_of(summands.travelling(dtype));
  const auto count = static_cast<int>(summands.all.size());
  sources_.assign(static_cast<size_t>(count), nullptr);
  const int64_t mine = slice(me_).length;
  for (int i = 0; i < count && mine > 0; ++i) {
    const Summand& summand = summands.all[static_cast<size_t>(i)];
    if (summand.host == host_) continue;
    sources_[static_cast<size_t>(i)] = scratch_slot(i);
    post_receive(scratch_slot(i), mine * size, layout_.partner(summand.host, me_));
  }
  int slot = count;
  for (int owner = 0; owner < n_; ++owner) {
    const int64_t length = slice(owner).length;
    if (layout_.host_of(owner) == host_ || !is_partner_of(owner) || length == 0) continue;
    for (const Summand& summand : summands.all) {
      if (summand.host == host_) post_send(sum_here(summand, owner, slot++), length * size, owner);
    }
  }
  // While those travel.
  for (int i = 0; i < count; ++i) {
    const Summand& summand = summands.all[static_cast<size_t>(i)];
    if (summand.host == host_) sources_[static_cast<size_t>(i)] = sum_here(summand, me_, i);
  }
}

void WideCommunicator::reduce_slice() {
  const Terms& greeting = oldest().greeting;
  const Summands& summands = layout_.summands(greeting.dtype);
  void* mine = own(me_);
  reduce({.input = summands.travelling(greeting.dtype),
          .output = greeting.dtype,
          .op = greeting.op,
          .group_sizes = summands.runs,
          .sources = sources_,
          .outputs = {&mine, 1},
          .count = slice(me_).length});
}

// Broadcast: the root's neighbours read all of the round, the owners on other hosts receive their slices.
void WideCommunicator::gather_from_root() {
  phase_ = Phase::gather;
  const int root = oldest().greeting.root;
  if (layout_.host_of(root) != host_) {
    if (slice(me_).length > 0) post_receive(own(me_), slice(me_).length * element_bytes(), root);
    return;
  }
  for (int owner = 0; owner < n_; ++owner) {
    const int64_t bytes = slice(owner).length * element_bytes();
    if (bytes == 0) continue;
    if (me_ != root) std::memcpy(own(owner), view(root, owner), static_cast<size_t>(bytes));
    if (me_ == root && layout_.host_of(owner) != host_) post_send(own(owner), bytes, owner);
  }
}

// Every host gets the slices of the others; that of a broadcast's root has all.
void WideCommunicator::enter_spread() {
  phase_ = Phase::spread;
  const Terms& greeting = oldest().greeting;
  const int complete = greeting.kind == RequestKind::broadcast ? layout_.host_of(greeting.root) : -1;
  for (int owner = 0; owner < n_ && host_ != complete; ++owner) {
    const int64_t bytes = slice(owner).length * element_bytes();
    if (owner != me_ && bytes > 0 && layout_.host_of(owner) != host_ && is_partner_of(owner))
      post_receive(own(owner), bytes, owner);
  }
  const int64_t mine = slice(me_).length * element_bytes();
  for (int host = 0; host < layout_.hosts() && mine > 0; ++host) {
    if (host != host_ && host != complete) post_send(own(me_), mine, layout_.partner(host, me_));
  }
}

void WideCommunicator::post_parts() {
  phase_ = Phase::spread;
  const int64_t bytes = length_ * element_bytes();
  for (int peer = 0; peer < n_; ++peer) {
    const int64_t at = slice(peer).at * element_bytes();
    std::byte* from = oldest().first.as<std::byte>() + at;
    std::byte* to = oldest().second.as<std::byte>() + at;
    if (peer == me_) {
      std::memcpy(to, from, static_cast<size_t>(bytes));
    } else {
      post_receive(to, bytes, peer);
      post_send(from, bytes, peer);
    }
  }
}

void WideCommunicator::enter_share() {
  fill_stage(false);
  enter(Phase::share);
}

void WideCommunicator::read_neighbours() {
  const Terms& greeting = oldest().greeting;
  if (greeting.kind == RequestKind::broadcast && layout_.host_of(greeting.root) == host_) return;
  for (int owner = 0; owner < n_; ++owner) {
    const auto bytes = static_cast<size_t>(slice(owner).length * element_bytes());
    if (bytes > 0 && !is_partner_of(owner)) std::memcpy(own(owner), view(layout_.partner(host_, owner), owner), bytes);
  }
}

}  // namespace ridgeline::comm::detail
