#include "ridgeline/parallel/inventory.h"

#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/base/error.h"

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
      : run_(run), units_(units), layers_(static_cast<int>(run.config.layers)) {}

  void add_persistent() {
    const Sharding& sharding = run_.sharding;
    int64_t blocks = 0;
    for (size_t i = 0; i < units_.size(); ++i) {
      const int unit = static_cast<int>(i);
      const Extent extent = extent_of(units_[i], sharding);
      blocks = std::max(blocks, extent.piece / model::kNormBlock);
      const auto add = [&](BufferKind kind, std::string_view what, Category category, bool communicated, bool cut,
                           DType dtype) {
        buffers_.push_back(
            {.kind = kind,
             .index = unit,
             .name = fmt::format("{} {} ({}{})", units_[i].name, what, name_of(dtype), cut ? ", shard" : ""),
             .category = category,
             .space = communicated ? Space::peer_visible : Space::host,
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
    for (int micro = 0; micro < program.micro_batches; ++micro) {
      // Tokens are written before the program starts; losses are read after it ends.
      add(BufferKind::batch, 0, micro, 0, last_op, "tokens, labels, positions, samples", Category::data,
          shape.tokens() * 16 + shape.batch * 4 + kAlignment);
      add(BufferKind::losses, 0, micro, 0, last_op, "losses per token", Category::activations, shape.tokens() * 4);
    }
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

  static int position(const Program& program, OpKind kind, int index, int micro) {
    for (size_t i = 0; i < program.ops.size(); ++i) {
      const Op& op = program.ops[i];
      if (op.kind == kind && op.index == index && op.micro == micro) return static_cast<int>(i);
    }
    RL_REQUIRE(false, "program {} lacks an operation of element {}", program.name, index);
    return -1;
  }

  // The operation of micro-batch `micro` that last reads element `element`'s output.
  int last_reader(const Program& program, bool step, int element, int micro) const {
    if (element + 1 == layers_) return position(program, step ? OpKind::loss : OpKind::evaluate, layers_, micro);
    return position(program, step ? OpKind::backward : OpKind::forward, element + 1, micro);
  }

  // The last operation of a kind on `unit` of micro-batch `micro`. Where there is none, the end: a program that never
  // gets there is the simulator's to refuse.
  static int last_of(const Program& program, OpKind kind, int unit, int micro) {
    for (size_t i = program.ops.size(); i-- > 0;) {
      const Op& op = program.ops[i];
      if (op.kind == kind && op.index == unit && op.micro == micro) return static_cast<int>(i);
    }
    return static_cast<int>(program.ops.size()) - 1;
  }

  void add_gathered(const Program& program, int at) {
    if (!run_.sharding.cuts(Shard::parameters)) return;
    const Op& op = program.ops[static_cast<size_t>(at)];
    int last = at;
    for (int user = at + 1; user < static_cast<int>(program.ops.size()); ++user) {
      if (program.gather_of(user, op.index) == at) last = user;
    }
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
    const model::Recompute recompute = step ? run_.recompute_of(op.index) : model::Recompute::none;
    const auto block_scratch = [&](model::Pass pass) {
      return carved(
          [&](model::Carver& carver) { model::carve_block_scratch(carver, run_.config, shape, pass, recompute); });
    };
    switch (op.kind) {
      case OpKind::forward: {
        add(BufferKind::activation, op.index, op.micro, at, last_reader(program, step, op.index, op.micro),
            fmt::format("output of {}", op.index < 0 ? "embedding" : fmt::format("block {}", op.index)),
            Category::activations, hidden);
        if (op.index < 0) return;
        add(BufferKind::saved, op.index, op.micro, at,
            step ? position(program, OpKind::backward, op.index, op.micro) : at,
            fmt::format("saved for backward of block {}", op.index), Category::activations,
            carved([&](model::Carver& carver) { model::carve_block_saved(carver, run_.config, shape, recompute); }));
        scratch(block_scratch(model::Pass::forward));
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
        scratch(op.index >= 0 ? block_scratch(model::Pass::backward) : carved([&](model::Carver& carver) {
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
  const int layers_;
  int number_ = 0;
  std::vector<Buffer> buffers_;
};

// Largest first, each at the lowest offset where it meets no buffer that is alive at the same time. Returns the end.
int64_t place_transient(std::vector<Buffer*>& buffers, int64_t base) {
  std::stable_sort(buffers.begin(), buffers.end(),
                   [](const Buffer* a, const Buffer* b) { return a->bytes > b->bytes; });
  int64_t end = base;
  std::vector<const Buffer*> placed, alive;  // placed: ascending by offset
  for (Buffer* buffer : buffers) {
    int64_t offset = base;
    for (const Buffer* other : placed) {
      if (other->last < buffer->first || buffer->last < other->first) continue;
      if (other->offset >= offset + buffer->bytes) break;
      offset = std::max(offset, other->offset + other->bytes);
    }
    buffer->offset = offset;
    end = std::max(end, offset + buffer->bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), buffer,
                                   [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; }),
                  buffer);
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

const Buffer* Inventory::find(BufferKind kind, int index, int micro, int program) const {
  for (const Buffer& buffer : buffers) {
    if (buffer.kind == kind && buffer.index == index && buffer.micro == micro && buffer.program == program)
      return &buffer;
  }
  return nullptr;
}

Inventory make_inventory(const RunShape& run, const std::vector<model::Unit>& units,
                         const std::vector<Program>& programs, Packing packing) {
  Builder builder(run, units);
  builder.add_persistent();
  for (size_t i = 0; i < programs.size(); ++i) builder.add_transient(programs[i], static_cast<int>(i));
  Inventory inventory{.buffers = builder.take()};

  const auto advance = [&](int64_t& end, Buffer& buffer) {
    buffer.offset = end;
    end += packing == Packing::separate ? round_up(buffer.bytes, kPage) + kPage : buffer.bytes;
  };
  for (Buffer& buffer : inventory.buffers) {
    if (!transient(buffer))
      advance(buffer.space == Space::host ? inventory.host_bytes : inventory.peer_visible_bytes, buffer);
  }
  for (const Space space : {Space::host, Space::peer_visible}) {
    int64_t& bytes = space == Space::host ? inventory.host_bytes : inventory.peer_visible_bytes;
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
        end = place_transient(mine, base);
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
