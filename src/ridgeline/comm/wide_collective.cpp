#include <algorithm>
#include <cstring>

#include "ridgeline/comm/kernels.h"
#include "ridgeline/comm/wide_communicator.h"

namespace ridgeline::comm::detail {

// Elements of a slice in one piece; the same on every rank, whether its buffer is staged or not. As many pieces as may
// be under way, unless their messages would be short.
int64_t WideCommunicator::piece_length(const Terms& terms) const {
  const int64_t element = size_of(terms.dtype);
  int64_t most = kPieceBytes / (n_ * element);
  if (reduces(terms.kind)) {
    const Summands& summands = layout_.summands(terms.dtype);
    most = std::min(most, kPieceBytes / (summands.slots * size_of(summands.travelling(terms.dtype))));
  }
  constexpr int64_t kMost = kPieces, kUnit = 64;
  const int64_t slice = by_parts(terms.kind) ? terms.count : (terms.count + n_ - 1) / n_;
  const int64_t pieces = std::clamp<int64_t>(slice * element / kLeastMessage, 1, kMost);
  const int64_t each = (slice + pieces - 1) / pieces;
  const int64_t units = std::min(most / kUnit, (each + kUnit - 1) / kUnit);
  return units > 0 ? units * kUnit : std::max<int64_t>(most, 1);
}

int64_t WideCommunicator::piece_elements(const Terms& terms) const {
  return piece_length(terms) * (by_parts(terms.kind) ? 1 : n_);
}

uint64_t WideCommunicator::piece_count(const Terms& terms) const {
  const int64_t elements = piece_elements(terms);
  return static_cast<uint64_t>((terms.count + elements - 1) / elements);
}

// Neighbours have left the piece whose memory this one takes.
bool WideCommunicator::enter() {
  const uint64_t number = steps_[entered];
  if (number == cut_ || !all_past(left, number + 1 - std::min(number + 1, kPieces))) return false;
  entering_ = std::max(entering_, completed_ + 1);
  while (operation(entering_).pieces_end <= number) ++entering_;
  const Operation& whole = operation(entering_);
  const Terms& terms = whole.greeting;
  const int64_t slices = by_parts(terms.kind) ? 1 : n_, elements = piece_elements(terms);
  const auto of_operation = static_cast<int64_t>(number + piece_count(terms) - whole.pieces_end);
  Piece& next = piece(number);
  next.operation = &whole;
  next.number = number;
  next.begin = of_operation * elements;
  next.length = std::min(elements / slices, (terms.count - next.begin + slices - 1) / slices);
  const int64_t bytes = terms.count * size_of(terms.dtype) * (by_parts(terms.kind) ? n_ : 1);
  neighbour(me_).places[number % kPieces] = world_.host().place_of(world_.local(), whole.first.data, bytes);
  if (reduces(terms.kind) || (terms.kind == RequestKind::broadcast && terms.root == me_)) fill_stage(next, true);
  arrive(entered);
  return true;
}

bool WideCommunicator::gather() {
  if (gathering_ == steps_[entered]) return false;
  Piece& next = piece(gathering_);
  const RequestKind kind = next.operation->greeting.kind;
  const bool reads = reduces(kind) || kind == RequestKind::broadcast;
  if (reads && !all_past(entered, gathering_ + 1)) return false;
  ++gathering_;
  if (reduces(kind)) gather_summands(next);
  if (kind == RequestKind::broadcast) gather_from_root(next);
  return true;
}

bool WideCommunicator::spread() {
  if (spreading_ == gathering_ || piece(spreading_).messages.open > 0) return false;
  Piece& next = piece(spreading_++);
  const RequestKind kind = next.operation->greeting.kind;
  if (reduces(kind)) reduce_slice(next);
  if (kind == RequestKind::all_to_all) {
    post_parts(next);
  } else if (kind != RequestKind::reduce_scatter) {
    post_slices(next);
  }
  return true;
}

bool WideCommunicator::complete_spread() {
  if (steps_[complete] == spreading_) return false;
  const Piece& next = piece(steps_[complete]);
  if (next.messages.open > 0) return false;
  if (shares(next)) fill_stage(next, false);
  arrive(complete);
  return true;
}

bool WideCommunicator::share() {
  if (steps_[left] == steps_[complete]) return false;
  const Piece& next = piece(steps_[left]);
  if (shares(next)) {
    if (!all_past(complete, next.number + 1)) return false;
    read_neighbours(next);
  }
  arrive(left);
  return true;
}

bool WideCommunicator::finished(const Operation& one) const {
  return all_past(left, one.pieces_end);
}

// Whether neighbours have from each other what they received. Those of a broadcast's root have read its buffer.
bool WideCommunicator::shares(const Piece& piece) const {
  const Terms& terms = piece.operation->greeting;
  if (terms.kind == RequestKind::broadcast) return layout_.host_of(terms.root) != host_;
  return terms.kind == RequestKind::all_reduce || terms.kind == RequestKind::all_gather;
}

WideCommunicator::Slice WideCommunicator::slice(const Piece& piece, int owner) const {
  const Terms& terms = piece.operation->greeting;
  const bool parts = by_parts(terms.kind);
  const int64_t end = parts ? (owner + 1) * terms.count : terms.count;
  const int64_t at = parts ? owner * terms.count + piece.begin : std::min(piece.begin + owner * piece.length, end);
  return {at, std::min(end - at, piece.length)};
}

std::byte* WideCommunicator::own(const Piece& piece, int owner) const {
  return piece.operation->first.as<std::byte>() + slice(piece, owner).at * size_of(piece.operation->greeting.dtype);
}

std::byte* WideCommunicator::view(const Piece& piece, int member, int owner) const {
  if (member == me_) return own(piece, owner);
  const BufferPlace& place = neighbour(member).places[piece.number % kPieces];
  if (place.place == BufferPlace::kStaged) return stage(piece, member, owner);
  const int local = world_.host().local_rank(ranks_[static_cast<size_t>(member)]);
  return world_.host().address_of(local, place) + slice(piece, owner).at * size_of(piece.operation->greeting.dtype);
}

std::byte* WideCommunicator::stage(const Piece& piece, int member, int owner) const {
  const auto neighbours = static_cast<int64_t>(layout_.members(host_).size());
  auto* stages = reinterpret_cast<std::byte*>(&neighbour(layout_.members(host_)[0]) + neighbours);
  const auto slot = layout_.place_of(member) * int64_t{kPieces} + static_cast<int64_t>(piece.number % kPieces);
  return stages + slot * kPieceBytes + owner * piece.length * size_of(piece.operation->greeting.dtype);
}

// Of slices, every one, or those that neighbours get from this rank.
void WideCommunicator::fill_stage(const Piece& piece, bool every_slice) {
  if (layout_.members(host_).size() == 1) return;
  if (neighbour(me_).places[piece.number % kPieces].place != BufferPlace::kStaged) return;
  const int64_t element = size_of(piece.operation->greeting.dtype);
  for (int owner = 0; owner < n_; ++owner) {
    if (!every_slice && !is_partner_of(owner)) continue;
    std::memcpy(stage(piece, me_, owner), own(piece, owner), static_cast<size_t>(slice(piece, owner).length * element));
  }
}

void* WideCommunicator::scratch_slot(const Piece& piece, int slot) const {
  const DType dtype = piece.operation->greeting.dtype;
  const auto at = static_cast<int64_t>(piece.number % kPieces) * kPieceBytes;
  return scratch_.get() + at + slot * piece.length * size_of(layout_.summands(dtype).travelling(dtype));
}

// A summand of this host over a slice: where it lies already, or summed into a slot.
void* WideCommunicator::sum_here(const Piece& piece, const Summand& summand, int owner, int slot) {
  const Terms& terms = piece.operation->greeting;
  const DType travelling = layout_.summands(terms.dtype).travelling(terms.dtype);
  if (summand.count == 1 && travelling == terms.dtype) return view(piece, summand.first, owner);
  parts_.clear();
  for (int i = 0; i < summand.count; ++i) parts_.push_back(view(piece, summand.first + i, owner));
  void* sum = scratch_slot(piece, slot);
  reduce({.input = terms.dtype,
          .output = travelling,
          .op = terms.op,
          .group_sizes = {&summand.count, 1},
          .sources = parts_,
          .outputs = {&sum, 1},
          .count = slice(piece, owner).length});
  return sum;
}

void WideCommunicator::gather_summands(Piece& piece) {
  const DType dtype = piece.operation->greeting.dtype;
  const Summands& summands = layout_.summands(dtype);
  const int64_t size = size_of(summands.travelling(dtype));
  const auto count = static_cast<int>(summands.all.size());
  piece.sources.assign(static_cast<size_t>(count), nullptr);
  const int64_t mine = slice(piece, me_).length;
  for (int i = 0; i < count && mine > 0; ++i) {
    const Summand& summand = summands.all[static_cast<size_t>(i)];
    if (summand.host == host_) continue;
    void* const slot = scratch_slot(piece, i);
    piece.sources[static_cast<size_t>(i)] = slot;
    post_receive(piece, slot, mine * size, layout_.partner(summand.host, me_), kGatherTag);
  }
  int slot = count;
  for (int owner = 0; owner < n_; ++owner) {
    const int64_t length = slice(piece, owner).length;
    if (layout_.host_of(owner) == host_ || !is_partner_of(owner) || length == 0) continue;
    for (const Summand& summand : summands.all) {
      if (summand.host != host_) continue;
      post_send(piece, sum_here(piece, summand, owner, slot++), length * size, owner, kGatherTag);
    }
  }
  // While those travel.
  for (int i = 0; i < count; ++i) {
    const Summand& summand = summands.all[static_cast<size_t>(i)];
    if (summand.host == host_) piece.sources[static_cast<size_t>(i)] = sum_here(piece, summand, me_, i);
  }
}

void WideCommunicator::reduce_slice(const Piece& piece) {
  const Terms& terms = piece.operation->greeting;
  const Summands& summands = layout_.summands(terms.dtype);
  void* mine = own(piece, me_);
  reduce({.input = summands.travelling(terms.dtype),
          .output = terms.dtype,
          .op = terms.op,
          .group_sizes = summands.runs,
          .sources = piece.sources,
          .outputs = {&mine, 1},
          .count = slice(piece, me_).length});
}

// Broadcast: the root's neighbours read all of the piece, the owners on other hosts receive their slices.
void WideCommunicator::gather_from_root(Piece& piece) {
  const int root = piece.operation->greeting.root;
  const int64_t element = size_of(piece.operation->greeting.dtype);
  if (layout_.host_of(root) != host_) {
    const int64_t mine = slice(piece, me_).length * element;
    if (mine > 0) post_receive(piece, own(piece, me_), mine, root, kGatherTag);
    return;
  }
  for (int owner = 0; owner < n_; ++owner) {
    const int64_t bytes = slice(piece, owner).length * element;
    if (bytes == 0) continue;
    if (me_ != root) std::memcpy(own(piece, owner), view(piece, root, owner), static_cast<size_t>(bytes));
    if (me_ == root && layout_.host_of(owner) != host_) post_send(piece, own(piece, owner), bytes, owner, kGatherTag);
  }
}

// Every host gets the slices of the others; that of a broadcast's root has all.
void WideCommunicator::post_slices(Piece& piece) {
  const Terms& terms = piece.operation->greeting;
  const int64_t element = size_of(terms.dtype);
  const int has_all = terms.kind == RequestKind::broadcast ? layout_.host_of(terms.root) : -1;
  for (int owner = 0; owner < n_ && host_ != has_all; ++owner) {
    const int64_t bytes = slice(piece, owner).length * element;
    if (bytes > 0 && layout_.host_of(owner) != host_ && is_partner_of(owner))
      post_receive(piece, own(piece, owner), bytes, owner, kSpreadTag);
  }
  const int64_t mine = slice(piece, me_).length * element;
  for (int host = 0; host < layout_.hosts() && mine > 0; ++host) {
    if (host != host_ && host != has_all)
      post_send(piece, own(piece, me_), mine, layout_.partner(host, me_), kSpreadTag);
  }
}

void WideCommunicator::post_parts(Piece& piece) {
  const Operation& whole = *piece.operation;
  const int64_t element = size_of(whole.greeting.dtype), bytes = piece.length * element;
  for (int peer = 0; peer < n_; ++peer) {
    const int64_t at = slice(piece, peer).at * element;
    std::byte* from = whole.first.as<std::byte>() + at;
    std::byte* to = whole.second.as<std::byte>() + at;
    if (peer == me_) {
      std::memcpy(to, from, static_cast<size_t>(bytes));
    } else {
      post_receive(piece, to, bytes, peer, kSpreadTag);
      post_send(piece, from, bytes, peer, kSpreadTag);
    }
  }
}

void WideCommunicator::read_neighbours(const Piece& piece) {
  const int64_t element = size_of(piece.operation->greeting.dtype);
  for (int owner = 0; owner < n_; ++owner) {
    const auto bytes = static_cast<size_t>(slice(piece, owner).length * element);
    if (bytes > 0 && !is_partner_of(owner))
      std::memcpy(own(piece, owner), view(piece, layout_.partner(host_, owner), owner), bytes);
  }
}

}  // namespace ridgeline::comm::detail
