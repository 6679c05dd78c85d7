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
    for (size_t i = 0; i < units_.size(); ++i) {
      const int unit = static_cast<int>(i);
      const int64_t count = units_[i].padded(run_.data_parallel);
      const auto add = [&](BufferKind kind, std::string_view what, Category category, Space space, DType dtype) {
        buffers_.push_back({.kind = kind,
                            .index = unit,
                            .name = fmt::format("{} {}", units_[i].name, what),
                            .category = category,
                            .space = space,
                            .bytes = round_up(count * size_of(dtype), kAlignment)});
      };
      add(BufferKind::master, "weights (f32)", Category::parameters, Space::host, DType::f32);
      if (run_.mixed()) add(BufferKind::working, "weights (bf16)", Category::parameters, Space::host, DType::bf16);
      if (!run_.training) continue;
      add(BufferKind::gradient, "gradient (f32)", Category::gradients, Space::peer_visible, DType::f32);
      add(BufferKind::moment1, "Adam first moment (f32)", Category::optimizer, Space::host, DType::f32);
      add(BufferKind::moment2, "Adam second moment (f32)", Category::optimizer, Space::host, DType::f32);
    }
    const int64_t positions = std::max(run_.batch.sequence, run_.evaluation_batch.sequence);
    if (const int64_t floats = model::rotary_table_floats(run_.config, positions); floats > 0) {
      buffers_.push_back({.kind = BufferKind::rotary_table,
                          .name = "rotary positions",
                          .category = Category::workspace,
                          .bytes = round_up(floats * 4, kAlignment)});
    }
    if (!run_.training) return;
    int64_t blocks = 0;
    for (const model::Unit& unit : units_)
      blocks = std::max(blocks, unit.padded(run_.data_parallel) / run_.data_parallel / model::kNormBlock);
    buffers_.push_back({.kind = BufferKind::norm_partials,
                        .name = "partial sums of the global norm",
                        .category = Category::workspace,
                        .bytes = round_up(blocks * 8, kAlignment)});
  }

  void add_transient(const Program& program, int number) {
    number_ = number;
    const bool step = program.name == "step";
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
           int64_t bytes) {
    if (bytes == 0) return;
    buffers_.push_back({.kind = kind,
                        .index = index,
                        .micro = micro,
                        .program = number_,
                        .first = first,
                        .last = last,
                        .name = std::string(what),
                        .category = category,
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

  void add_for_op(const Program& program, int at, const model::BatchShape& shape, int64_t hidden, bool step) {
    const Op& op = program.ops[static_cast<size_t>(at)];
    const auto scratch = [&](int64_t bytes) {
      add(BufferKind::scratch, at, op.micro, at, at, fmt::format("scratch of {}", op.name()), Category::workspace,
          bytes);
    };
    const auto block_scratch = [&](model::Pass pass) {
      return carved([&](model::Carver& carver) {
        model::carve_block_scratch(carver, run_.config, shape, pass, model::Recompute::none);
      });
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
            carved([&](model::Carver& carver) {
              model::carve_block_saved(carver, run_.config, shape, model::Recompute::none);
            }));
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
      case OpKind::count:
      case OpKind::reduce:
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
  inventory.host_bytes = round_up(inventory.host_bytes, kPage);
  const int64_t base = inventory.host_bytes;
  for (size_t i = 0; i < programs.size(); ++i) {
    std::vector<Buffer*> mine;
    for (Buffer& buffer : inventory.buffers) {
      if (buffer.program == static_cast<int>(i)) mine.push_back(&buffer);
    }
    int64_t end = base;
    if (packing == Packing::separate) {
      for (Buffer* buffer : mine) advance(end, *buffer);
    } else {
      end = place_transient(mine, base);
    }
    inventory.host_bytes = std::max(inventory.host_bytes, end);
  }
  return inventory;
}

std::vector<std::string> overlapping(const Inventory& inventory) {
  std::vector<std::string> wrong;
  const auto& all = inventory.buffers;
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const Buffer &a = all[i], &b = all[j];
      if (a.space != b.space) continue;
      const bool share = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
      if (!share) continue;
      // Programs run one after the other; inside one, operations are in order, and no transient buffer is used by a
      // stream other than compute.
      const bool ordered =
          transient(a) && transient(b) && (a.program != b.program || a.last < b.first || b.last < a.first);
      if (!ordered) wrong.push_back(fmt::format("'{}' and '{}'", a.name, b.name));
    }
  }
  return wrong;
}

}  // namespace ridgeline::parallel
