#include "ridgeline/parallel/inventory.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <set>

#include "ridgeline/base/error.h"
#include "ridgeline/parallel/offload.h"

namespace ridgeline::parallel {
namespace {

constexpr int64_t kAlignment = 64;
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
  Builder(const RunShape& run, const std::vector<model::Segment>& segments)
      : run_(run),
        segments_(segments),
        offload_(offload_of(run, segments)),
        layers_(static_cast<int>(run.config.layers)) {}

  void add_persistent() {
    const Sharding& sharding = run_.sharding;
    // First, so that it begins on a page.
    if (offload_.window_bytes > 0) {
      buffers_.push_back({.kind = BufferKind::offload_window,
                          .name = "window of the offloaded optimizer state",
                          .category = Category::optimizer,
                          .bytes = offload_.window_bytes});
    }
    for (size_t i = 0; i < segments_.size(); ++i) {
      if (!segments_[i].here) continue;
      const int segment = static_cast<int>(i);
      const Extent extent = extent_of(segments_[i], sharding);
      const auto add = [&](BufferKind kind, std::string_view what, Category category, bool communicated, bool cut,
                           DType dtype) {
        const bool in_file = offload_.find(kind) != nullptr;
        buffers_.push_back({.kind = kind,
                            .index = segment,
                            .name = fmt::format("{} {} ({}{}{})", segments_[i].name, what, name_of(dtype),
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
    const model::Slice slice = model::slice_of(run_.config, run_.place().tensor_rank(), sharding.slices());
    const int64_t cache = run_.cached * 2 * slice.kv_heads.count * run_.config.head_width();
    for (int layer = 0; layer < (run_.cached > 0 ? layers_ : 0); ++layer) {
      if (!computes(layer)) continue;
      buffers_.push_back({.kind = BufferKind::cache,
                          .index = layer,
                          .name = fmt::format("keys and values of block {}", layer),
                          .category = Category::activations,
                          .space = Space::reserved,
                          .bytes = round_up(cache * size_of(run_.evaluation_batch.dtype), kAlignment)});
    }
    const int64_t positions = run_.positions();
    if (const int64_t floats = model::rotary_table_floats(run_.config, positions); floats > 0) {
      buffers_.push_back({.kind = BufferKind::rotary_table,
                          .name = "rotary positions",
                          .category = Category::workspace,
                          .bytes = round_up(floats * 4, kAlignment)});
    }
  }

  void add_transient(const Program& program, int number) {
    number_ = number;
    program_ = &program;
    open_.clear();
    const int last_op = static_cast<int>(program.ops.size()) - 1;
    measure_layers();
    const model::BatchShape& shape = run_.local(program).batch;
    // Tokens are written before the program starts; losses are read after it ends.
    const int64_t words_per_token = shape.documents ? 6 : 4;
    add(BufferKind::batch, 0, 0, 0, last_op, "tokens, labels, positions, samples", Category::data,
        program.micro_batches * round_up((shape.tokens() * words_per_token + shape.batch) * 4, kAlignment));
    exchanged_.clear();
    for (const Op& op : program.ops) {
      if (op.kind != OpKind::exchange) continue;
      for (const Message& message : op.messages) exchanged_.insert({message.backward, message.element});
    }
    if (program.generates()) {  // of the last stage; it tells the others
      add(BufferKind::logits, 0, 0, 0, last_op, "logits", Category::activations, run_.config.vocab * 4);
    } else if (program.computes(layers_)) {
      add(BufferKind::losses, 0, 0, 0, last_op, "losses per token", Category::activations,
          program.micro_batches * round_up(shape.tokens() * 4, kAlignment));
    }
    const Dataflow dataflow(run_.config, run_.sharding, program);
    for (int at = 0; at <= last_op; ++at) {
      const Op& op = program.ops[static_cast<size_t>(at)];
      for (const Use& use : dataflow.of(at)) touch(use.value, at, op.stream());
      const int64_t bytes = scratch_bytes(op);
      if (bytes == 0) continue;
      add(BufferKind::scratch, at, op.micro, at, at, fmt::format("scratch of {}", op.name()), Category::workspace,
          bytes, shared_by_slices());
      buffers_.back().last_on[static_cast<size_t>(op.stream())] = at;
    }
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

  // The buffer of a value lives from its first use to its last.
  void touch(const Value& value, int at, StreamId stream) {
    const std::optional<BufferId> place = buffer_of(value, run_.sharding, *program_);
    if (!place) return;
    const auto [found, is_new] =
        open_.try_emplace({static_cast<int>(place->kind), place->index, place->micro, 0}, buffers_.size());
    if (is_new) {
      create(*place, at);
      if (buffers_.size() == found->second) found->second = kEmpty;
    }
    if (found->second == kEmpty) return;
    Buffer& buffer = buffers_[found->second];
    buffer.last = buffer.last_on[static_cast<size_t>(stream)] = at;
  }

  void create(const BufferId& place, int at) {
    const BufferKind kind = place.kind;
    const int index = place.index, micro = place.micro;
    const auto add_of_segment = [&](std::string_view what, DType dtype, Space space) {
      const model::Segment& segment = segments_[static_cast<size_t>(index)];
      add(kind, index, micro, at, at, fmt::format(fmt::runtime(what), segment.name), Category::communication,
          extent_of(segment, run_.sharding).whole * size_of(dtype), space);
    };
    const model::LocalShape local = run_.local(*program_);
    const int64_t hidden = local.tokens().count * run_.config.width * size_of(local.batch.dtype);
    switch (kind) {
      case BufferKind::activation:
        return add(
            kind, index, micro, at, at, fmt::format("output of {}", name_of_element(index)), Category::activations,
            hidden,
            exchanged_.contains({false, index}) ? Space::peer_visible : (index < 0 ? shared_by_slices() : Space::host));
      case BufferKind::saved:
        return add(kind, index, micro, at, at, fmt::format("saved for backward of block {}", index),
                   Category::activations, blocks_[static_cast<size_t>(index)].saved);
      case BufferKind::stream_gradient:
        return add(kind, index, micro, at, at, "gradient of the residual stream", Category::activations, hidden,
                   exchanges_gradient(index) ? Space::peer_visible : Space::host);
      case BufferKind::weight_inputs:
        return add(kind, index, micro, at, at, fmt::format("left for the weight part of block {}", index),
                   Category::activations, blocks_[static_cast<size_t>(index)].weight_inputs, shared_by_slices());
      case BufferKind::gathered:
        return add_of_segment("gathered weights of {}", run_.sharding.weights, Space::peer_visible);
      case BufferKind::segment_gradient:
        return add_of_segment("gradient of {} in flight", DType::f32,
                              run_.sharding.packs() ? Space::host : Space::peer_visible);
      case BufferKind::wire_gradient:
        return add_of_segment("packed gradient of {} in flight", run_.sharding.wire, Space::peer_visible);
      default:
        RL_REQUIRE(false, "buffer kind {} holds no value of a program", static_cast<int>(kind));
    }
  }

  // Whether the stage computes a block.
  bool computes(int layer) const {
    const std::vector<Elements> chunks = run_.sharding.pipeline.of_stage(run_.config, run_.place().stage());
    return std::any_of(chunks.begin(), chunks.end(), [&](const Elements& these) { return these.contains(layer); });
  }
  bool exchanges_gradient(int home) const {
    return std::any_of(exchanged_.begin(), exchanged_.end(), [&](const std::pair<bool, int>& message) {
      return message.first && program_->gradient_home(message.second) == home;
    });
  }
  // Where something lies that slices sum.
  Space shared_by_slices() const { return run_.sharding.slices() > 1 ? Space::peer_visible : Space::host; }

  // Saved values and scratch of a block: every micro-batch takes the same.
  void measure_layers() {
    blocks_.clear();
    if (program_->generates()) {  // all alike
      const int64_t scratch = carved(
          [&](model::Carver& carver) { model::carve_cached_scratch(carver, run_.local(*program_), run_.cached); });
      blocks_.assign(static_cast<size_t>(layers_), {.forward_scratch = scratch});
      return;
    }
    blocks_.resize(static_cast<size_t>(layers_));
    for (int layer = 0; layer < layers_; ++layer) {
      if (!program_->computes(layer)) continue;
      const model::LocalShape shape =
          run_.local(*program_, program_->trains() ? run_.recompute_of(layer) : model::Recompute::none);
      const auto scratch = [&](model::Pass pass) {
        return carved([&](model::Carver& carver) { model::carve_block_scratch(carver, shape, pass); });
      };
      BlockBytes& block = blocks_[static_cast<size_t>(layer)];
      block = {.saved = carved([&](model::Carver& carver) { model::carve_block_saved(carver, shape); }),
               .forward_scratch = scratch(model::Pass::forward),
               .backward_scratch = scratch(model::Pass::backward)};
      if (!program_->in_parts[static_cast<size_t>(layer + 1)]) continue;
      block.weight_inputs = carved([&](model::Carver& carver) { model::carve_block_weight_inputs(carver, shape); });
      block.input_scratch = scratch(model::Pass::backward_input);
      block.weight_scratch = scratch(model::Pass::backward_weight);
    }
  }

  int64_t scratch_bytes(const Op& op) const {
    const bool block = op.index >= 0 && op.index < layers_;
    const model::LocalShape shape = run_.local(*program_);
    const auto of_embedding = [&](bool backward) {
      return carved([&](model::Carver& carver) { model::carve_embedding_scratch(carver, shape, backward); });
    };
    switch (op.kind) {
      case OpKind::predict:
        return carved([&](model::Carver& carver) {
          const model::BatchShape one = model::one_token(shape.batch);
          model::carve_loss_scratch(carver, {shape.config, one, shape.recompute, shape.slice}, false);
        });
      case OpKind::forward:
        return block ? blocks_[static_cast<size_t>(op.index)].forward_scratch : of_embedding(false);
      case OpKind::loss:
      case OpKind::evaluate:
        return carved(
            [&](model::Carver& carver) { model::carve_loss_scratch(carver, shape, op.kind == OpKind::loss); });
      case OpKind::backward:
        return block ? blocks_[static_cast<size_t>(op.index)].backward_scratch : of_embedding(true);
      case OpKind::backward_input:
        return blocks_[static_cast<size_t>(op.index)].input_scratch;
      case OpKind::backward_weight:
        return blocks_[static_cast<size_t>(op.index)].weight_scratch;
      default:
        RL_REQUIRE(traits_of(op.kind).subject != Subject::element, "the scratch of '{}' is not known", op.name());
        return 0;
    }
  }

  const RunShape& run_;
  const std::vector<model::Segment>& segments_;
  const Offload offload_;
  const int layers_;
  // Of the program whose buffers are added.
  int number_ = 0;
  const Program* program_ = nullptr;
  static constexpr size_t kEmpty = std::numeric_limits<size_t>::max();  // of no bytes: a block that keeps nothing
  std::unordered_map<Key, size_t, KeyHash> open_;                       // in buffers_, of kind, index, micro
  struct BlockBytes {
    int64_t saved = 0, forward_scratch = 0, backward_scratch = 0;
    int64_t weight_inputs = 0, input_scratch = 0, weight_scratch = 0;  // where its backward has two parts
  };
  std::vector<BlockBytes> blocks_;
  std::set<std::pair<bool, int>> exchanged_;  // backward, element
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

std::vector<model::Segment> RunShape::segments() const {
  const comm::Placement where = place();
  std::vector<model::Segment> segments = model::declare(config, sharding.partition(), where.tensor_rank());
  const model::ElementSegments elements(config, sharding.partition());
  const int last = sharding.pipeline.stages() - 1;
  for (model::Segment& segment : segments) {
    segment.here = false;
    segment.counts = where.tensor_rank() % segment.copies == 0;
  }
  for (const Elements& chunk : sharding.pipeline.of_stage(config, where.stage())) {
    for (const int segment : elements.of(chunk.first, chunk.last)) segments[static_cast<size_t>(segment)].here = true;
  }
  if (!sharding.ties_stages(config) || where.stage() != last) return segments;
  for (const int segment : elements.of(-1)) segments[static_cast<size_t>(segment)].counts = false;
  return segments;
}

std::vector<comm::AlikeRanks> alike_ranks(const RunShape& run) {
  std::vector<comm::AlikeRanks> all;
  std::map<std::pair<int, int64_t>, size_t> found;  // by stage and rows
  for (const comm::AlikeRanks& ranks : comm::alike_ranks(run.sharding.mesh)) {
    const model::Slice slice = model::slice_of(run.config, ranks.first.tensor_rank(), run.sharding.slices());
    const auto [at, is_new] = found.try_emplace({ranks.first.stage(), slice.rows.count}, all.size());
    if (is_new) {
      all.push_back(ranks);
    } else {
      all[at->second].ranks += ranks.ranks;
    }
  }
  return all;
}

Extent extent_of(const model::Segment& segment, const Sharding& sharding) {
  const int64_t whole = segment.padded(sharding.ranks());
  return {whole, whole / sharding.shards(), whole / sharding.ranks()};
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
    case Space::reserved:
      return "reserved";
    case Space::file:
      return "file";
  }
  return "?";
}

const Buffer* Inventory::find(BufferKind kind, int index, int micro, int program) const {
  const auto found = positions.find({static_cast<int>(kind), index, micro, program});
  return found == positions.end() ? nullptr : &buffers[found->second];
}

Inventory make_inventory(const RunShape& run, const std::vector<model::Segment>& segments,
                         const std::vector<Program>& programs, Packing packing) {
  Builder builder(run, segments);
  builder.add_persistent();
  for (size_t i = 0; i < programs.size(); ++i) builder.add_transient(programs[i], static_cast<int>(i));
  Inventory inventory{.buffers = builder.take(), .positions = {}};
  inventory.positions.reserve(inventory.buffers.size());
  for (size_t i = 0; i < inventory.buffers.size(); ++i) {
    const Buffer& buffer = inventory.buffers[i];
    inventory.positions.emplace(Key{static_cast<int>(buffer.kind), buffer.index, buffer.micro, buffer.program}, i);
  }

  const auto end_of = [&](Space space) -> int64_t& {
    switch (space) {
      case Space::host:
        return inventory.host_bytes;
      case Space::peer_visible:
        return inventory.peer_visible_bytes;
      case Space::reserved:
        return inventory.reserved_bytes;
      case Space::file:
        return inventory.file_bytes;
    }
    RL_NO_CASE(space);
  };
  const auto advance = [&](int64_t& end, Buffer& buffer) {
    // A file has no guard pages; parts of segments are whole blocks, so that all in it begins on a page.
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

std::optional<BufferId> buffer_of(const Value& value, const Sharding& sharding, const Program& program) {
  const int index = value.index, micro = value.micro;
  const bool gradient = sharding.separate_gradient(), wire = sharding.separate_wire();
  const auto where = [&](bool there, BufferKind buffer) {
    return there ? std::optional<BufferId>({buffer, index, micro}) : std::nullopt;
  };
  switch (value.kind) {
    case ValueKind::activation:
      return BufferId{BufferKind::activation, index, micro};
    case ValueKind::saved:
      return BufferId{BufferKind::saved, index, micro};
    case ValueKind::output_gradient:
      return BufferId{BufferKind::stream_gradient, program.gradient_home(index), micro};
    case ValueKind::weight_inputs:
      return BufferId{BufferKind::weight_inputs, index, micro};
    case ValueKind::weights:
      return where(micro != kResident && sharding.cuts(Shard::parameters), BufferKind::gathered);
    case ValueKind::gradient:
    case ValueKind::joined_gradient:
      return where(gradient, BufferKind::segment_gradient);
    case ValueKind::packed_gradient:
      return where(wire, BufferKind::wire_gradient);
    case ValueKind::shard_sum:
    case ValueKind::sum:  // in place of what has travelled
      return sharding.packs() ? where(wire, BufferKind::wire_gradient) : where(gradient, BufferKind::segment_gradient);
    case ValueKind::tokens:
    case ValueKind::token_count:
    case ValueKind::state:
    case ValueKind::updated_state:
    case ValueKind::step_gradient:
    case ValueKind::tied_gradient:
    case ValueKind::squares:
    case ValueKind::losses:
    case ValueKind::cache:
    case ValueKind::updated_cache:
    case ValueKind::logits:
    case ValueKind::step_scalars:
      return std::nullopt;
  }
  return std::nullopt;
}

namespace {

// Who used a stretch of bytes last; buffers are shown in the order of their first use.
class Occupants {
 public:
  // Of a program, or of what persists where there is none.
  Occupants(const Program* program, std::vector<std::string>& wrong) : program_(program), wrong_(wrong) {
    if (program != nullptr) order_.emplace(*program);
  }

  void take(const Buffer& buffer) {
    const int64_t begin = buffer.offset, end = buffer.offset + buffer.bytes;
    auto at = stretches_.upper_bound(begin);
    if (at != stretches_.begin() && std::prev(at)->second.end > begin) --at;
    while (at != stretches_.end() && at->first < end) {
      const auto [first, stretch] = *at;
      if (!leaves_before(*stretch.buffer, buffer))
        wrong_.push_back(fmt::format("{} and {}", described(*stretch.buffer), described(buffer)));
      at = stretches_.erase(at);
      if (first < begin) stretches_.emplace(first, Stretch{begin, stretch.buffer});
      if (stretch.end > end) at = stretches_.emplace(end, stretch).first;
    }
    stretches_.emplace(begin, Stretch{end, &buffer});
  }

 private:
  struct Stretch {
    int64_t end;
    const Buffer* buffer;
  };

  bool leaves_before(const Buffer& a, const Buffer& b) const {
    if (!order_ || !transient(a) || !transient(b) || a.last >= b.first) return false;
    return std::all_of(a.last_on.begin(), a.last_on.end(),
                       [&](int last) { return last < 0 || order_->before(last, b.first); });
  }

  std::string described(const Buffer& buffer) const {
    if (!transient(buffer)) return fmt::format("'{}'", buffer.name);
    const auto name = [&](int at) { return program_->ops[static_cast<size_t>(at)].name(); };
    return fmt::format("'{}' (from '{}' to '{}')", buffer.name, name(buffer.first), name(buffer.last));
  }

  const Program* program_;
  std::optional<Order> order_;
  std::vector<std::string>& wrong_;
  std::map<int64_t, Stretch> stretches_;
};

}  // namespace

std::vector<std::string> overlapping(const Inventory& inventory, const std::vector<Program>& programs) {
  std::vector<std::string> wrong;
  for (const Space space : {Space::host, Space::peer_visible, Space::reserved, Space::file}) {
    Occupants persistent(nullptr, wrong);
    for (const Buffer& buffer : inventory.buffers) {
      if (buffer.space == space && !transient(buffer)) persistent.take(buffer);
    }
    // Programs run one after the other: each meets what is persistent, and itself.
    for (size_t program = 0; program < programs.size(); ++program) {
      std::vector<const Buffer*> mine;
      for (const Buffer& buffer : inventory.buffers) {
        if (buffer.space != space) continue;
        if (!transient(buffer) || buffer.program == static_cast<int>(program)) mine.push_back(&buffer);
      }
      std::stable_sort(mine.begin(), mine.end(), [](const Buffer* a, const Buffer* b) {
        return std::pair(transient(*a), a->first) < std::pair(transient(*b), b->first);
      });
      std::vector<std::string> found;
      Occupants occupants(&programs[program], found);
      for (const Buffer* const buffer : mine) occupants.take(*buffer);
      for (std::string& text : found) {
        if (std::find(wrong.begin(), wrong.end(), text) == wrong.end()) wrong.push_back(std::move(text));
      }
    }
  }
  return wrong;
}

}  // namespace ridgeline::parallel
