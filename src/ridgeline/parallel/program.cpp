#include "ridgeline/parallel/program.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <set>

#include "ridgeline/base/error.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/parallel/dataflow.h"

namespace ridgeline::parallel {
namespace {

constexpr std::array kOps = {
    OpTraits{OpKind::count, "count tokens", Subject::step, StreamId::reduce, Group::data, Phase::reduce},
    OpTraits{OpKind::gather, "gather", Subject::segment, StreamId::gather, Group::shards, Phase::gather},
    OpTraits{OpKind::forward, "forward", Subject::element, StreamId::compute, Group::none, Phase::forward},
    OpTraits{OpKind::loss, "loss", Subject::micro, StreamId::compute, Group::none, Phase::loss},
    OpTraits{OpKind::evaluate, "evaluate loss", Subject::micro, StreamId::compute, Group::none, Phase::loss},
    OpTraits{OpKind::predict, "predict", Subject::step, StreamId::compute, Group::none, Phase::loss},
    OpTraits{OpKind::clear, "clear gradient of", Subject::segment_of_micro, StreamId::compute, Group::none,
             Phase::reduce},
    OpTraits{OpKind::backward, "backward", Subject::element, StreamId::compute, Group::none, Phase::backward},
    OpTraits{OpKind::backward_input, "backward of the input of", Subject::element, StreamId::compute, Group::none,
             Phase::backward},
    OpTraits{OpKind::backward_weight, "backward of the weights of", Subject::element, StreamId::compute, Group::none,
             Phase::backward},
    OpTraits{OpKind::join, "join gradient of", Subject::segment_of_micro, StreamId::compute, Group::slices,
             Phase::reduce},
    OpTraits{OpKind::pack, "pack gradient of", Subject::segment_of_micro, StreamId::compute, Group::none,
             Phase::reduce},
    OpTraits{OpKind::reduce, "reduce", Subject::segment_of_micro, StreamId::reduce, Group::shards, Phase::reduce},
    OpTraits{OpKind::replicate, "sum replicas of", Subject::segment_of_micro, StreamId::reduce, Group::replicas,
             Phase::reduce},
    OpTraits{OpKind::accumulate, "accumulate", Subject::segment_of_micro, StreamId::compute, Group::none,
             Phase::reduce},
    OpTraits{OpKind::tie, "tie gradient of", Subject::segment, StreamId::compute, Group::ends, Phase::reduce},
    OpTraits{OpKind::measure, "measure", Subject::segment, StreamId::compute, Group::none, Phase::reduce},
    OpTraits{OpKind::agree, "agree", Subject::step, StreamId::reduce, Group::world, Phase::reduce},
    OpTraits{OpKind::update, "update", Subject::segment, StreamId::compute, Group::none, Phase::update},
    OpTraits{OpKind::settle, "settle", Subject::messages, StreamId::compute, Group::none, Phase::exchange},
    OpTraits{OpKind::exchange, "exchange", Subject::messages, StreamId::exchange, Group::stages, Phase::exchange},
};
static_assert(kOps.size() == kOpKinds);

// The time that one gather's result stays: computations `first` … `last`, started before computation `issue`.
struct Residence {
  int segment, instance, issue, first, last;
};

// Ascending by `issue`.
std::vector<Residence> residences(const model::ElementSegments& elements, const std::vector<Op>& computations,
                                  const Sharding& sharding) {
  std::vector<Residence> list;
  if (!sharding.cuts(Shard::optimizer)) return list;
  const bool drops = sharding.cuts(Shard::parameters) && sharding.gather == Gather::per_use;
  // Between two uses this near the weights would have to be gathered again at once (the last block's, around the loss).
  const int near = std::max(sharding.prefetch, 1) + 1;
  std::map<int, size_t> latest;  // segment -> its residence
  std::map<int, int> instances;
  for (int at = 0; at < static_cast<int>(computations.size()); ++at) {
    for (const int segment : segments_read(elements, computations[static_cast<size_t>(at)])) {
      const auto found = latest.find(segment);
      if (found != latest.end() && (!drops || at - list[found->second].last <= near)) {
        list[found->second].last = at;
        continue;
      }
      latest[segment] = list.size();
      list.push_back({segment, instances[segment]++, std::max(0, at - sharding.prefetch), at, at});
    }
  }
  return list;
}

class Lowering {
 public:
  // `computations`: what the stage computes, and its exchanges.
  Lowering(const model::TransformerConfig& config, const Sharding& sharding, int stage, std::vector<Op> computations)
      : elements_(config, sharding.partition()),
        ties_stages_(sharding.ties_stages(config)),
        sharding_(sharding),
        computations_(std::move(computations)),
        residences_(residences(elements_, computations_, sharding)) {
    program_.chunks = sharding.pipeline.of_stage(config, stage);
    program_.in_parts.resize(static_cast<size_t>(elements_.last()) + 2);
    for (const Op& op : computations_) {
      program_.micro_batches = std::max(program_.micro_batches, op.micro + 1);
      if (op.kind == OpKind::backward_input) program_.in_parts[static_cast<size_t>(op.index + 1)] = true;
    }
  }

  Program step() {
    program_.name = "step";
    for (const Op& op : computations_) {
      if (op.micro != 0 || op.kind == OpKind::exchange) continue;
      for (const int segment : segments_added_to(elements_, op)) ++contributions_[segment];
    }
    const int counted = emit(OpKind::count, 0, 0);
    for (now_ = 0; now_ < static_cast<int>(computations_.size()); ++now_) {
      const Op& op = computations_[static_cast<size_t>(now_)];
      for (const int segment : segments_added_to(elements_, op)) clear_before_first(segment, op.micro);
      compute(op.kind == OpKind::loss ? std::vector<int>{counted} : std::vector<int>{});
      for (const int segment : segments_added_to(elements_, op)) contributed(segment, op.micro);
      progress(sharding_.prefetch);
    }
    while (!pending_.empty()) progress(-1);
    settle(-1);
    for (auto& [segment, position] : reduced_) {
      if (!tied(segment)) continue;
      emit(OpKind::tie, segment, 0, sharding_.accumulates() ? std::vector<int>{} : std::vector<int>{position});
    }
    for (const auto& [segment, position] : reduced_) {
      const bool waited = sharding_.accumulates() || tied(segment);
      measured_ = waited ? emit(OpKind::measure, segment, 0) : emit(OpKind::measure, segment, 0, {position});
    }
    const int agreed = emit(OpKind::agree, 0, 0, {measured_});
    for (const auto& [segment, unused] : contributions_) emit(OpKind::update, segment, 0, {agreed});
    return std::move(program_);
  }

  Program generation() {
    program_.name = "generate";
    forward();
    return std::move(program_);
  }

  Program evaluation() {
    program_.name = "evaluate";
    forward();
    emit(OpKind::agree, 0, 0, {last_compute_});
    return std::move(program_);
  }

 private:
  struct Pending {
    int segment, micro, begun, position;
    bool summed;  // over the replicas too, or there are none
  };

  // What was sent, by the position of its exchange, and when that began.
  struct Sent {
    int position, begun;
    std::vector<Message> messages;
  };

  void forward() {
    for (now_ = 0; now_ < static_cast<int>(computations_.size()); ++now_) {
      compute({});
      settle(sharding_.prefetch);
    }
    settle(-1);
  }

  int emit(OpKind kind, int index, int micro, std::vector<int> after = {}, std::vector<Message> messages = {}) {
    const int position = static_cast<int>(program_.ops.size());
    program_.ops.push_back({kind, index, micro, std::move(after), std::move(messages)});
    if (traits_of(kind).stream == StreamId::compute) last_compute_ = position;
    return position;
  }
  // A transfer that starts now may use memory that computation has just left.
  int transfer(OpKind kind, int index, int micro, std::vector<Message> messages = {}) {
    return emit(kind, index, micro, last_compute_ < 0 ? std::vector<int>{} : std::vector<int>{last_compute_},
                std::move(messages));
  }

  void exchange(const std::vector<Message>& messages) {
    const int position = transfer(OpKind::exchange, 0, 0, messages);
    Sent sent{position, now_, {}};
    for (const Message& message : messages) {
      if (message.sends)
        sent.messages.push_back(message);
      else
        received_[{message.backward, message.element, message.micro}] = position;
    }
    if (!sent.messages.empty()) sent_.push_back(std::move(sent));
  }
  // Waits for what was sent at least `age` computations ago.
  void settle(int age) {
    for (; !sent_.empty() && now_ - sent_.front().begun >= age; sent_.pop_front())
      emit(OpKind::settle, 0, 0, {sent_.front().position}, std::move(sent_.front().messages));
  }
  // The operation waits for what came from another stage, if that is what it works on.
  void wait_for_message(const Op& op, std::vector<int>& after) const {
    const bool backward = op.kind == OpKind::backward || op.kind == OpKind::backward_input;
    const auto found = received_.find({backward, backward ? op.index : op.index - 1, op.micro});
    if (found != received_.end()) after.push_back(found->second);
  }

  bool tied(int segment) const { return ties_stages_ && reads(-1, segment) && reads(elements_.last(), segment); }
  bool reads(int element, int segment) const {
    const std::vector<int>& all = elements_.of(element);
    return std::find(all.begin(), all.end(), segment) != all.end();
  }

  // Emits computation `now_` behind the gathers that start here.
  void compute(std::vector<int> after) {
    const Op& op = computations_[static_cast<size_t>(now_)];
    for (; next_residence_ < residences_.size() && residences_[next_residence_].issue == now_; ++next_residence_) {
      const Residence& residence = residences_[next_residence_];
      gathered_[residence.segment] = transfer(OpKind::gather, residence.segment, residence.instance);
    }
    if (op.kind == OpKind::exchange) return exchange(op.messages);
    for (const int segment : segments_read(elements_, op)) {
      const auto found = gathered_.find(segment);
      if (found != gathered_.end()) after.push_back(found->second);
    }
    wait_for_message(op, after);
    emit(op.kind, op.index, op.micro, std::move(after));
  }

  // Micro-batches whose gradients are added up before they are reduced form a window.
  bool window_begins(int micro) const { return micro == 0 || sharding_.reduces_every(); }
  bool window_ends(int micro) const { return micro == program_.micro_batches - 1 || sharding_.reduces_every(); }

  void clear_before_first(int segment, int micro) {
    if (window_begins(micro) && seen_[segment] == 0) emit(OpKind::clear, segment, micro);
  }

  void contributed(int segment, int micro) {
    if (++seen_[segment] < contributions_[segment]) return;
    seen_[segment] = 0;
    if (!window_ends(micro)) return;
    if (elements_.partial(segment)) emit(OpKind::join, segment, micro);
    if (sharding_.packs()) emit(OpKind::pack, segment, micro);
    const int position = transfer(OpKind::reduce, segment, micro);
    pending_.push_back({segment, micro, now_, position, sharding_.shards() == 1 || sharding_.replicas() == 1});
  }

  // Goes on with the reductions that started at least `age` computations ago, oldest first.
  void progress(int age) {
    settle(age);
    std::vector<Pending> rest;
    for (Pending pending : pending_) {
      if (now_ - pending.begun < age) {
        rest.push_back(pending);
      } else if (!pending.summed) {
        pending.position = emit(OpKind::replicate, pending.segment, pending.micro);
        pending.summed = true;
        pending.begun = now_;
        rest.push_back(pending);
      } else {
        if (sharding_.accumulates()) emit(OpKind::accumulate, pending.segment, pending.micro, {pending.position});
        if (pending.micro == program_.micro_batches - 1) reduced_.emplace_back(pending.segment, pending.position);
      }
    }
    pending_ = std::move(rest);
  }

  const model::ElementSegments elements_;
  const bool ties_stages_;
  const Sharding& sharding_;
  const std::vector<Op> computations_;
  const std::vector<Residence> residences_;
  Program program_;
  int now_ = 0, last_compute_ = -1, measured_ = -1;
  size_t next_residence_ = 0;
  std::map<int, int> gathered_;              // segment -> position of its latest gather
  std::map<int, int> contributions_, seen_;  // per segment: in a micro-batch, and of the present one so far
  std::vector<Pending> pending_;
  std::deque<Sent> sent_;
  std::map<std::array<int, 3>, int> received_;  // backward, element, micro-batch -> position of the exchange
  std::vector<std::pair<int, int>> reduced_;    // segment, position of its last reduction
};

// What a stage's schedule computes and exchanges; the loss as `loss`.
class Computations {
 public:
  Computations(const model::TransformerConfig& config, const Pipeline& pipeline, OpKind loss,
               const std::vector<bool>& recomputed = {})
      : config_(config), pipeline_(pipeline), loss_(loss), recomputed_(recomputed) {}

  std::vector<Op> of(const std::vector<ScheduleEntry>& schedule) {
    for (const ScheduleEntry& entry : schedule) add(entry);
    return std::move(list_);
  }

 private:
  void add(const ScheduleEntry& entry) {
    const int layers = static_cast<int>(config_.layers);
    const Elements elements = pipeline_.elements(config_, entry.chunk);
    const int last = std::min(elements.last, layers - 1);
    switch (entry.work) {
      case Work::forward:
        for (int element = elements.first; element <= last; ++element) add(OpKind::forward, element, entry.micro);
        return;
      case Work::loss:
        return add(loss_, layers, entry.micro);
      case Work::backward:
        for (int element = last; element >= elements.first; --element) add(OpKind::backward, element, entry.micro);
        return;
      case Work::backward_input:
        for (int element = last; element >= std::max(elements.first, 0); --element)
          add(has_parts(element) ? OpKind::backward_input : OpKind::backward, element, entry.micro);
        return;
      case Work::backward_weight:  // the embedding's backward is nothing else
        for (int element = last; element >= elements.first; --element) {
          if (element < 0)
            add(OpKind::backward, element, entry.micro);
          else if (has_parts(element))
            add(OpKind::backward_weight, element, entry.micro);
        }
        return;
      case Work::exchange: {
        Op& op = list_.emplace_back(Op{OpKind::exchange, 0, entry.micro, {}});
        for (const Transfer& transfer : entry.transfers)
          op.messages.push_back({transfer.stage, transfer.sends, transfer.backward,
                                 pipeline_.elements(config_, transfer.chunk).last, transfer.micro});
        return;
      }
    }
    RL_NO_CASE(entry.work);
  }
  void add(OpKind kind, int element, int micro) { list_.push_back({kind, element, micro, {}}); }
  bool has_parts(int element) const { return recomputed_.empty() || !recomputed_[static_cast<size_t>(element)]; }

  const model::TransformerConfig& config_;
  const Pipeline& pipeline_;
  const OpKind loss_;
  const std::vector<bool>& recomputed_;
  std::vector<Op> list_;
};

// One micro-batch after the other through the virtual stages; every stage's list is a part of one order, in which
// what is sent comes right behind what computes it.
std::vector<ScheduleEntry> forward_schedule(const Pipeline& pipeline, int stage, int micro_batches) {
  std::vector<ScheduleEntry> list;
  const int stages = pipeline.stages(), all = pipeline.virtual_stages();
  const auto message = [&](int chunk, int micro, int other, bool sends) {
    list.push_back({Work::exchange, micro, chunk, {Transfer{other, sends, false, chunk, micro}}});
  };
  for (int micro = 0; micro < micro_batches; ++micro) {
    for (int chunk = stage; chunk < all; chunk += stages) {
      if (chunk > 0) message(chunk - 1, micro, (chunk - 1) % stages, false);
      list.push_back({Work::forward, micro, chunk});
      if (chunk + 1 < all)
        message(chunk, micro, (chunk + 1) % stages, true);
      else
        list.push_back({Work::loss, micro, chunk});
    }
  }
  return list;
}

}  // namespace

std::span<const std::string_view> words_of(Shard /*type*/) {
  static constexpr std::array<std::string_view, 4> kWords = {"none", "optimizer", "gradients", "parameters"};
  return kWords;
}

std::span<const std::string_view> words_of(Gather /*type*/) {
  static constexpr std::array<std::string_view, 2> kWords = {"per_use", "per_step"};
  return kWords;
}

std::string_view name_of(StreamId stream) {
  constexpr std::array<std::string_view, kStreams> kNames{"compute", "gather", "reduce", "exchange", "copy"};
  return kNames.at(static_cast<size_t>(stream));
}

comm::AxisSet axes_of(Group group, const Sharding& sharding) {
  switch (group) {
    case Group::none:
      return {};
    case Group::world:
      return comm::kAllAxes;
    case Group::data:
      return comm::kGradientAxes;
    case Group::shards:
      return sharding.shard_axes();
    case Group::replicas:
      return sharding.replica_axes();
    case Group::slices:
      return {comm::Axis::tp};
    case Group::stages:
    case Group::ends:
      return {comm::Axis::pp};
  }
  RL_REQUIRE(false, "group {}", static_cast<int>(group));
  return {};
}

const OpTraits& traits_of(OpKind kind) {
  const OpTraits& traits = kOps.at(static_cast<size_t>(kind));
  RL_REQUIRE(traits.kind == kind, "the table of operations is not in the order of OpKind: {}", traits.verb);
  return traits;
}

std::string name_of_element(int element) {
  return element < 0 ? "embedding" : fmt::format("block {}", element);
}

std::string Op::name() const {
  const OpTraits& traits = traits_of(kind);
  switch (traits.subject) {
    case Subject::step:
      return std::string(traits.verb);
    case Subject::micro:
      return fmt::format("{} micro {}", traits.verb, micro);
    case Subject::segment:
      return fmt::format("{} segment {}", traits.verb, index);
    case Subject::segment_of_micro:
      return fmt::format("{} segment {} micro {}", traits.verb, index, micro);
    case Subject::element:
      return fmt::format("{} {} micro {}", traits.verb, name_of_element(index), micro);
    case Subject::messages: {
      std::string name(traits.verb);
      for (const Message& message : messages)
        name += fmt::format(" {} {}{} micro {} {} stage {};", message.sends ? "send" : "receive",
                            message.backward ? "gradient of " : "", name_of_element(message.element), message.micro,
                            message.sends ? "to" : "from", message.stage);
      return name;
    }
  }
  return "?";
}

int Program::gather_of(int position, int segment) const {
  for (const int other : ops[static_cast<size_t>(position)].after) {
    const Op& op = ops[static_cast<size_t>(other)];
    if (op.kind == OpKind::gather && op.index == segment) return other;
  }
  return -1;
}

bool Program::computes(int element) const {
  return std::any_of(chunks.begin(), chunks.end(), [&](const Elements& these) { return these.contains(element); });
}

int Program::gradient_home(int element) const {
  int last = element;
  for (const Elements& these : chunks) {
    // What a chunk begins with is the output of the element before it.
    if (these.first - 1 <= element && element <= these.last) last = these.last;
  }
  const auto in_place = [&](int backward) {
    const auto at = static_cast<size_t>(backward + 1);
    return at >= in_parts.size() || !in_parts[at];
  };
  while (element < last && in_place(element + 1)) ++element;
  return element;
}

std::vector<int> segments_of(const model::ElementSegments& elements, const Program& program) {
  std::set<int> all;
  for (const Elements& these : program.chunks) {
    const std::vector<int> some = elements.of(these.first, these.last);
    all.insert(some.begin(), some.end());
  }
  return {all.begin(), all.end()};
}

Program lower(const model::TransformerConfig& config, const std::vector<ScheduleEntry>& schedule,
              const Sharding& sharding, int stage, const std::vector<bool>& recomputed) {
  for (const ScheduleEntry& entry : schedule)
    RL_REQUIRE(entry.micro < sharding.micro_batches, "micro-batch {} of {}", entry.micro, sharding.micro_batches);
  Computations computations(config, sharding.pipeline, OpKind::loss, recomputed);
  return Lowering(config, sharding, stage, computations.of(schedule)).step();
}

Program evaluation(const model::TransformerConfig& config, int micro_batches, const Sharding& sharding, int stage) {
  Computations computations(config, sharding.pipeline, OpKind::evaluate);
  const std::vector<ScheduleEntry> schedule = forward_schedule(sharding.pipeline, stage, micro_batches);
  return Lowering(config, sharding, stage, computations.of(schedule)).evaluation();
}

Program generation(const model::TransformerConfig& config, const Sharding& sharding, int stage) {
  Computations computations(config, sharding.pipeline, OpKind::predict);
  const std::vector<ScheduleEntry> schedule = forward_schedule(sharding.pipeline, stage, 1);
  return Lowering(config, sharding, stage, computations.of(schedule)).generation();
}

Order::Order(const Program& program) {
  std::array<int, kStreams> last;
  last.fill(-1);
  streams_.reserve(program.ops.size());
  latest_.reserve(program.ops.size());
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const Op& op = program.ops[i];
    std::array<int, kStreams> known;
    known.fill(-1);
    const auto learn = [&](int position) {
      if (position < 0) return;
      for (size_t s = 0; s < kStreams; ++s) known[s] = std::max(known[s], latest_[static_cast<size_t>(position)][s]);
      int& own = known[static_cast<size_t>(streams_[static_cast<size_t>(position)])];
      own = std::max(own, position);
    };
    learn(last[static_cast<size_t>(op.stream())]);
    for (const int other : op.after) learn(other);
    streams_.push_back(op.stream());
    latest_.push_back(known);
    last[static_cast<size_t>(op.stream())] = static_cast<int>(i);
  }
}

bool Order::before(int first, int second) const {
  const StreamId stream = streams_[static_cast<size_t>(first)];
  return latest_[static_cast<size_t>(second)][static_cast<size_t>(stream)] >= first;
}

}  // namespace ridgeline::parallel
