#include "ridgeline/parallel/inventory.h"

#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/parallel/offload.h"

namespace ridgeline::parallel {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kPage = 4096;
int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

bool transient(const Buffer& buffer) {
  return buffer.program >= 0;
}

// Bytes of what a carve function takes.
template <typename F>
int64_t carved(F&& carve) {
  model::Carver carver(nullptr);
  carve(carver);
  return carver.used();
}

class Builder {
 public:
  Builder(const RunShape& run, const std::vector<model::Unit>& units)
      : run_(run), units_(units), offload_(offload_of(run, units)), layers_(static_cast<int>(run.config.layers)) {}

  void add_persistent() {
    const Sharding& sharding = run_.sharding;
    // First, so that it begins on a page.
    if (offload_.window_bytes > 0) {
      buffers_.push_back({.kind = BufferKind::offload_window,
                          .name = "window of the offloaded optimizer state",
                          .category = Category::optimizer,
                          .bytes = offload_.window_bytes});
    }
    int64_t blocks = 0;
    for (size_t i = 0; i < units_.size(); ++i) {
      const int unit = static_cast<int>(i);
      const Extent extent = extent_of(units_[i], sharding);
      blocks = std::max(blocks, extent.piece / model::kNormBlock);
      const auto add = [&](BufferKind kind, std::string_view what, Category category, bool communicated, bool cut,
                           DType dtype) {
        const bool in_file = offload_.find(kind) != nullptr;
        buffers_.push_back({.kind = kind,
                            .index = unit,
                            .name = fmt::format("{} {} ({}{}{})", units_[i].name, what, name_of(dtype),
                                                cut ? ", shard" : "", in_file ? ", in the file" : ""),
                            .category = category,
                            .space = in_file ? Space::file : (communicated ? Space::peer_visible : Space::host),
                            .bytes = round_up((cut ? extent.part : extent.whole) * size_of(dtype), kAlignment)});
      };
      // Weights that only the optimizer cuts are whole, and filled by gathers in place.
      const bool whole_weights = !sharding.cuts(Shard::parameters);
      const bool in_place = sharding.cuts(Shard::optimizer) && whole_weights;
      const bool masters_cut = sharding.cuts(Shard::parameters) || (run_.mixed() && sharding.cuts(Shard::optimizer));
      add(BufferKind::master, "weights", Category::parameters, in_place && !run_.mixed(), masters_cut,
          sharding.masters);
      if (run_.mixed())
        add(BufferKind::working, "weights", Category::parameters, in_place, !whole_weights, sharding.weights);
      if (!run_.training) continue;
      const bool reduced_in_place =
          sharding.wire_is_gradient() || (!sharding.separate_gradient() && !sharding.separate_wire());
      add(BufferKind::gradient, "gradient", Category::gradients, reduced_in_place, sharding.gradient_is_part(),
          sharding.gradient_dtype());
      const bool cut = sharding.cuts(Shard::optimizer);
      add(BufferKind::moment1, "Adam first moment", Category::optimizer, false, cut, sharding.moments);
      add(BufferKind::moment2, "Adam second moment", Category::optimizer, false, cut, sharding.moments);
    }
    const int64_t positions = std::max(run_.batch.sequence, run_.evaluation_batch.sequence);
    if (const int64_t floats = model::rotary_table_floats(run_.config, positions); floats > 0) {
      buffers_.push_back({.kind = BufferKind::rotary_table,
                          .name = "rotary positions",
                          .category = Category::workspace,
                          .bytes = round_up(floats * 4, kAlignment)});
    }
    if (!run_.training) return;
    buffers_.push_back({.kind = BufferKind::norm_partials,
                        .name = "partial sums of the global norm",
                        .category = Category::workspace,
                        .bytes = round_up(blocks * 8, kAlignment)});
  }

  void add_transient(const Program& program, int number) {
    number_ = number;
    const bool step = program.trains();
    const model::BatchShape& shape = step ? run_.batch : run_.evaluation_batch;
    const int64_t hidden = shape.tokens() * run_.config.width * size_of(shape.dtype);
    const int last_op = static_cast<int>(program.ops.size()) - 1;
    look_through(program);
    measure_layers(shape, step);
    // Tokens are written before the program starts; losses are read after it ends.
    add(BufferKind::batch, 0, 0, 0, last_op, "tokens, labels, positions, samples", Category::data,
        program.micro_batches * round_up(shape.tokens() * 16 + shape.batch * 4, kAlignment));
    add(BufferKind::losses, 0, 0, 0, last_op, "losses per token", Category::activations,
        program.micro_batches * round_up(shape.tokens() * 4, kAlignment));
    for (int at = 0; at <= last_op; ++at) add_for_op(program, at, shape, hidden, step);
  }

  std::vector<Buffer> take() { return std::move(buffers_); }

 private:
  void add(BufferKind kind, int index, int micro, int first, int last, std::string_view what, Category category,
           int64_t bytes, Space space = Space::host) {
    if (bytes == 0) return;
    buffers_.push_back({.kind = kind,
                        .index = index,
                        .micro = micro,
                        .program = number_,
                        .first = first,
                        .last = last,
                        .name = std::string(what),
                        .category = category,
                        .space = space,
                        .bytes = round_up(bytes, kAlignment)});
  }

  void look_through(const Program& program) {
    spans_.clear();
    spans_.reserve(program.ops.size());
    last_waiter_.assign(program.ops.size(), 0);
    for (size_t i = 0; i < program.ops.size(); ++i) {
      const Op& op = program.ops[i];
      const int at = static_cast<int>(i);
      spans_.try_emplace({static_cast<int>(op.kind), op.index, op.micro, 0}, Span{at, at}).first->second.last = at;
      for (const int other : op.after) last_waiter_[static_cast<size_t>(other)] = at;
    }
  }

  // Saved values and scratch of a block: every micro-batch takes the same.
  void measure_layers(const model::BatchShape& shape, bool step) {
    blocks_.clear();
    for (int layer = 0; layer < layers_; ++layer) {
      const model::Recompute recompute = step ? run_.recompute_of(layer) : model::Recompute::none;
      const auto scratch = [&](model::Pass pass) {
        return carved(
            [&](model::Carver& carver) { model::carve_block_scratch(carver, run_.config, shape, pass, recompute); });
      };
      blocks_.push_back(
          {carved([&](model::Carver& carver) { model::carve_block_saved(carver, run_.config, shape, recompute); }),
           scratch(model::Pass::forward), scratch(model::Pass::backward)});
    }
  }

  int position(const Program& program, OpKind kind, int index, int micro) const {
    const auto found = spans_.find({static_cast<int>(kind), index, micro, 0});
    RL_REQUIRE(found != spans_.end(), "program {} lacks an operation of element {}", program.name, index);
    return found->second.first;
  }

  // The operation of micro-batch `micro` that last reads element `element`'s output.
  int last_reader(const Program& program, bool step, int element, int micro) const {
    if (element + 1 == layers_) return position(program, step ? OpKind::loss : OpKind::evaluate, layers_, micro);
    return position(program, step ? OpKind::backward : OpKind::forward, element + 1, micro);
  }

  // The last operation of a kind on `unit` of micro-batch `micro`. Where there is none, the end: a program that never
  // gets there is the simulator's to refuse.
  int last_of(const Program& program, OpKind kind, int unit, int micro) const {
    const auto found = spans_.find({static_cast<int>(kind), unit, micro, 0});
    return found == spans_.end() ? static_cast<int>(program.ops.size()) - 1 : found->second.last;
  }

  void add_gathered(const Program& program, int at) {
    if (!run_.sharding.cuts(Shard::parameters)) return;
    const Op& op = program.ops[static_cast<size_t>(at)];
    const int last = std::max(at, last_waiter_[static_cast<size_t>(at)]);
    const model::Unit& unit = units_[static_cast<size_t>(op.index)];
    add(BufferKind::gathered, op.index, op.micro, at, last, fmt::format("gathered weights of {}", unit.name),
        Category::communication, extent_of(unit, run_.sharding).whole * size_of(run_.sharding.weights),
        Space::peer_visible);
  }

  // Backward's own gradient lives from its first addition to where it has been packed, added to the accumulated one, or
  // measured; the wire's copy from there to where it has been added.
  void add_gradient(const Program& program, int at) {
    const Sharding& sharding = run_.sharding;
    const Op& op = program.ops[static_cast<size_t>(at)];
    const model::Unit& unit = units_[static_cast<size_t>(op.index)];
    const int64_t whole = extent_of(unit, sharding).whole;
    const bool packs = sharding.wire != DType::f32;
    if (op.kind == OpKind::clear && sharding.separate_gradient()) {
      const int last = last_of(program, packs ? OpKind::pack : OpKind::accumulate, op.index, op.micro);
      add(BufferKind::unit_gradient, op.index, op.micro, at, last, fmt::format("gradient of {} in flight", unit.name),
          Category::communication, whole * size_of(DType::f32), packs ? Space::host : Space::peer_visible);
    }
    if (op.kind == OpKind::pack && sharding.separate_wire()) {
      add(BufferKind::wire_gradient, op.index, op.micro, at, last_of(program, OpKind::accumulate, op.index, op.micro),
          fmt::format("packed gradient of {} in flight", unit.name), Category::communication,
          whole * size_of(sharding.wire), Space::peer_visible);
    }
  }

  void add_for_op(const Program& program, int at, const model::BatchShape& shape, int64_t hidden, bool step) {
    const Op& op = program.ops[static_cast<size_t>(at)];
    const auto scratch = [&](int64_t bytes) {
      add(BufferKind::scratch, at, op.micro, at, at, fmt::format("scratch of {}", op.name()), Category::workspace,
          bytes);
    };
    const auto block = [&] { return blocks_[static_cast<size_t>(op.index)]; };
    switch (op.kind) {
      case OpKind::forward: {
        add(BufferKind::activation, op.index, op.micro, at, last_reader(program, step, op.index, op.micro),
            fmt::format("output of {}", op.index < 0 ? "embedding" : fmt::format("block {}", op.index)),
            Category::activations, hidden);
        if (op.index < 0) return;
        add(BufferKind::saved, op.index, op.micro, at,
            step ? position(program, OpKind::backward, op.index, op.micro) : at,
            fmt::format("saved for backward of block {}", op.index), Category::activations, block().saved);
        scratch(block().forward_scratch);
        return;
      }
      case OpKind::loss:
        add(BufferKind::stream_gradient, 0, op.micro, at, position(program, OpKind::backward, -1, op.micro),
            "gradient of the residual stream", Category::activations, hidden);
        scratch(carved([&](model::Carver& carver) { model::carve_loss_scratch(carver, run_.config, shape, true); }));
        return;
      case OpKind::evaluate:
        scratch(carved([&](model::Carver& carver) { model::carve_loss_scratch(carver, run_.config, shape, false); }));
        return;
      case OpKind::backward:
        scratch(op.index >= 0 ? block().backward_scratch : carved([&](model::Carver& carver) {
          model::carve_embedding_scratch(carver, run_.config, shape);
        }));
        return;
      case OpKind::gather:
        return add_gathered(program, at);
      case OpKind::clear:
      case OpKind::pack:
        return add_gradient(program, at);
      case OpKind::count:
      case OpKind::reduce:
      case OpKind::replicate:
      case OpKind::accumulate:
      case OpKind::measure:
      case OpKind::agree:
      case OpKind::update:
        return;
    }
  }

  const RunShape& run_;
  const std::vector<model::Unit>& units_;
  const Offload offload_;
  const int layers_;
  // Of the program whose buffers are added: operations of a kind, index and micro-batch, and for each operation the
  // last one that waits for it.
  struct Span {
    int first, last;
  };
  std::unordered_map<Key, Span, KeyHash> spans_;
  std::vector<int> last_waiter_;
  struct BlockBytes {
    int64_t saved, forward_scratch, backward_scratch;
  };
  std::vector<BlockBytes> blocks_;
  int number_ = 0;
  std::vector<Buffer> buffers_;
};

// Largest first, each at the lowest offset where it meets no buffer that is alive at the same time. Returns the end.
int64_t place_transient(std::vector<Buffer*>& buffers, size_t operations, int64_t base) {
  std::stable_sort(buffers.begin(), buffers.end(),
                   [](const Buffer* a, const Buffer* b) { return a->bytes > b->bytes; });
  // Most buffers live shortly: each stretch of the program lists those placed that live in it.
  constexpr int kStretch = 32;
  std::vector<std::vector<const Buffer*>> placed(operations / kStretch + 1);
  int64_t end = base;
  std::vector<const Buffer*> alive;
  for (Buffer* buffer : buffers) {
    alive.clear();
    const int begin = buffer->first / kStretch;
    for (int stretch = begin; stretch <= buffer->last / kStretch; ++stretch) {
      for (const Buffer* other : placed[static_cast<size_t>(stretch)]) {
        const bool seen = stretch > begin && other->first / kStretch < stretch;
        if (!seen && other->first <= buffer->last && buffer->first <= other->last) alive.push_back(other);
      }
    }
    std::sort(alive.begin(), alive.end(), [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; });
    int64_t offset = base;
    for (const Buffer* other : alive) {
      if (other->offset >= offset + buffer->bytes) break;
      offset = std::max(offset, other->offset + other->bytes);
    }
    buffer->offset = offset;
    end = std::max(end, offset + buffer->bytes);
    for (int stretch = begin; stretch <= buffer->last / kStretch; ++stretch)
      placed[static_cast<size_t>(stretch)].push_back(buffer);
  }
  return end;
}

}  // namespace

Extent extent_of(const model::Unit& unit, const Sharding& sharding) {
  const int64_t whole = unit.padded(sharding.ranks);
  return {whole, whole / sharding.shards(), whole / sharding.ranks};
}

std::string_view name_of(Category category) {
  switch (category) {
    case Category::parameters:
      return "parameters";
    case Category::gradients:
      return "gradients";
    case Category::optimizer:
      return "optimizer";
    case Category::activations:
      return "activations";
    case Category::workspace:
      return "workspace";
    case Category::communication:
      return "communication";
    case Category::data:
      return "data";
  }
  return "?";
}

size_t KeyHash::operator()(const Key& key) const {
  uint64_t hash = 0;
  for (const int part : key) hash = (hash ^ static_cast<uint32_t>(part)) * 0x9e3779b97f4a7c15U;
  return static_cast<size_t>(hash ^ (hash >> 32));
}

std::string_view name_of(Space space) {
  switch (space) {
    case Space::host:
      return "host";
    case Space::peer_visible:
      return "peer visible";
    case Space::file:
      return "file";
  }
  return "?";
}

const Buffer* Inventory::find(BufferKind kind, int index, int micro, int program) const {
  const auto found = positions.find({static_cast<int>(kind), index, micro, program});
  return found == positions.end() ? nullptr : &buffers[found->second];
}

Inventory make_inventory(const RunShape& run, const std::vector<model::Unit>& units,
                         const std::vector<Program>& programs, Packing packing) {
  Builder builder(run, units);
  builder.add_persistent();
  for (size_t i = 0; i < programs.size(); ++i) builder.add_transient(programs[i], static_cast<int>(i));
  Inventory inventory{.buffers = builder.take(), .positions = {}};
  inventory.positions.reserve(inventory.buffers.size());
  for (size_t i = 0; i < inventory.buffers.size(); ++i) {
    const Buffer& buffer = inventory.buffers[i];
    inventory.positions.emplace(Key{static_cast<int>(buffer.kind), buffer.index, buffer.micro, buffer.program}, i);
  }

  const auto end_of = [&](Space space) -> int64_t& {
    if (space == Space::file) return inventory.file_bytes;
    return space == Space::host ? inventory.host_bytes : inventory.peer_visible_bytes;
  };
  const auto advance = [&](int64_t& end, Buffer& buffer) {
    // A file has no guard pages; parts of units are whole norm blocks, so that all in it begins on a page.
    const bool guarded = packing == Packing::separate && buffer.space != Space::file;
    const int64_t pages = round_up(buffer.bytes, kPage);
    buffer.offset = guarded ? end + pages - buffer.bytes : end;
    end += guarded ? pages + kPage : buffer.bytes;
  };
  for (Buffer& buffer : inventory.buffers) {
    if (!transient(buffer)) advance(end_of(buffer.space), buffer);
  }
  for (const Space space : {Space::host, Space::peer_visible}) {
    int64_t& bytes = end_of(space);
    bytes = round_up(bytes, kPage);
    const int64_t base = bytes;
    for (size_t i = 0; i < programs.size(); ++i) {
      std::vector<Buffer*> mine;
      for (Buffer& buffer : inventory.buffers) {
        if (buffer.program == static_cast<int>(i) && buffer.space == space) mine.push_back(&buffer);
      }
      int64_t end = base;
      if (packing == Packing::separate) {
        for (Buffer* buffer : mine) advance(end, *buffer);
      } else {
        end = place_transient(mine, programs[i].ops.size(), base);
      }
      bytes = std::max(bytes, end);
    }
  }
  return inventory;
}

std::vector<std::string> overlapping(const Inventory& inventory, const std::vector<Program>& programs) {
  std::vector<Order> orders(programs.begin(), programs.end());
  std::vector<std::string> wrong;
  const auto& all = inventory.buffers;
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const Buffer &a = all[i], &b = all[j];
      if (a.space != b.space) continue;
      const bool share = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
      if (!share) continue;
      // Programs run one after the other.
      const bool ordered = transient(a) && transient(b) &&
                           (a.program != b.program ||
                            (a.last < b.first && orders[static_cast<size_t>(a.program)].before(a.last, b.first)) ||
                            (b.last < a.first && orders[static_cast<size_t>(a.program)].before(b.last, a.first)));
      if (!ordered) wrong.push_back(fmt::format("'{}' and '{}'", a.name, b.name));
    }
  }
  return wrong;
}

}  // namespace ridgeline::parallel
