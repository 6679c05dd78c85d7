#include "ridgeline/parallel/simulator.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

#include "ridgeline/parallel/dataflow.h"

namespace ridgeline::parallel {
namespace {

// ---------------------------------------------------------------------------------------------- values of one rank

// What has happened to a value so far, by position in the program; -1: before it began.
struct History {
  int changed = -1;   // written or last added to
  int added_by = -1;  // the last operation that added to it
  int read_by = -1;   // the first that read it
};

class Values {
 public:
  Values(const Program& program, const Dataflow& dataflow, int rank, std::vector<std::string>& wrong)
      : program_(program), dataflow_(dataflow), order_(program), rank_(rank), wrong_(wrong) {
    for (const Value& value : dataflow.given()) histories_.emplace(value, History{});
  }

  void prove() {
    for (int at = 0; at < static_cast<int>(program_.ops.size()); ++at) {
      for (const Use& use : dataflow_.of(at)) {
        switch (use.access) {
          case Access::read:
            read(at, use.value);
            break;
          case Access::write:
            write(at, use.value);
            break;
          case Access::add:
            add(at, use.value);
            break;
        }
      }
      if (program_.ops[static_cast<size_t>(at)].stream() == StreamId::compute) last_compute_ = at;
    }
    for (const Value& value : dataflow_.wanted()) {
      if (!histories_.contains(value))
        complain(fmt::format("'{}' is the last operation, and none has written {}", name_of_last(), value.name()));
    }
    complain_of_unused();
  }

 private:
  void read(int at, const Value& value) {
    const auto found = histories_.find(value);
    if (found == histories_.end())
      return complain(fmt::format("'{}' needs {}, which nothing before it has written", name(at), value.name()));
    History& history = found->second;
    if (!ordered(history.changed, at))
      complain(
          fmt::format("'{}' does not wait for '{}', which writes {}", name(at), name(history.changed), value.name()));
    if (history.read_by < 0) history.read_by = at;
  }

  void write(int at, const Value& value) {
    const auto [found, is_new] = histories_.try_emplace(value, History{.changed = at});
    if (!is_new) complain(fmt::format("'{}' writes {} a second time", name(at), value.name()));
    // Memory is laid out by position in the program: a transfer's target may be what a computation has just left.
    const Op& op = program_.ops[static_cast<size_t>(at)];
    if (takes_memory(value.kind) && op.stream() != StreamId::compute && !ordered(last_compute_, at))
      complain(fmt::format("'{}' does not wait for '{}', which may still use the memory of {}", name(at),
                           name(last_compute_), value.name()));
  }

  void add(int at, const Value& value) {
    const auto found = histories_.find(value);
    if (found == histories_.end())
      return complain(fmt::format("'{}' adds to {}, which nothing before it has cleared", name(at), value.name()));
    History& history = found->second;
    if (history.read_by >= 0)
      complain(fmt::format("'{}' adds to {} after '{}' has read it", name(at), value.name(), name(history.read_by)));
    if (!ordered(history.changed, at))
      complain(fmt::format("'{}' does not wait for '{}' before it adds to {}", name(at), name(history.changed),
                           value.name()));
    if (history.added_by >= 0) {
      const Op &before = program_.ops[static_cast<size_t>(history.added_by)],
               &op = program_.ops[static_cast<size_t>(at)];
      if (before.micro > op.micro)
        complain(fmt::format("'{}' adds to {} after '{}': micro-batches must be in ascending order", name(at),
                             value.name(), name(history.added_by)));
      if (before.micro == op.micro && before.kind == op.kind && before.index == op.index)
        complain(fmt::format("'{}' adds to {} twice", name(at), value.name()));
    }
    history.changed = history.added_by = at;
  }

  void complain_of_unused() {
    std::vector<std::pair<int, Value>> unused;
    for (const auto& [value, history] : histories_) {
      if (history.changed >= 0 && history.read_by < 0 && must_be_used(value.kind))
        unused.emplace_back(history.changed, value);
    }
    std::sort(unused.begin(), unused.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [writer, value] : unused)
      complain(fmt::format("'{}' leaves {}, which nothing uses", name(writer), value.name()));
  }

  bool ordered(int first, int second) const { return first < 0 || order_.before(first, second); }
  std::string name(int at) const {
    return at < 0 ? "the begin of the program" : program_.ops[static_cast<size_t>(at)].name();
  }
  std::string name_of_last() const { return name(static_cast<int>(program_.ops.size()) - 1); }
  void complain(const std::string& text) { wrong_.push_back(fmt::format("rank {}: {}", rank_, text)); }

  const Program& program_;
  const Dataflow& dataflow_;
  const Order order_;
  const int rank_;
  int last_compute_ = -1;
  std::unordered_map<Value, History, ValueHash> histories_;
  std::vector<std::string>& wrong_;
};

// What messages call a rank of the list.
int number_of(std::span<const SimulatedRank> ranks, size_t rank) {
  return ranks[rank].number >= 0 ? ranks[rank].number : static_cast<int>(rank);
}

// Waits point backwards; nothing else can be said of a program where they do not.
bool waits_are_sound(const Program& program, int rank, std::vector<std::string>& wrong) {
  const size_t before = wrong.size();
  for (size_t i = 0; i < program.ops.size(); ++i) {
    for (const int other : program.ops[i].after) {
      if (other < 0 || static_cast<size_t>(other) >= i)
        wrong.push_back(fmt::format("rank {}: '{}' waits for operation {}, which is not before it", rank,
                                    program.ops[i].name(), other));
    }
  }
  return wrong.size() == before;
}

// ------------------------------------------------------------------------------------------------- meeting of ranks

// All ranks with every stream collapsed into one: an operation that needs others waits until they stand at theirs.
class Meeting {
 public:
  Meeting(const Sharding& sharding, std::span<const SimulatedRank> ranks, std::vector<std::string>& wrong)
      : sharding_(sharding), ranks_(ranks), wrong_(wrong), next_(ranks.size(), 0), done_(ranks.size()) {
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      for (size_t group = 0; group < kGroups; ++group) members_[group][ranks[rank].group[group]].push_back(rank);
    }
  }

  void prove() {
    bool moved = true;
    while (moved) {
      moved = false;
      for (size_t rank = 0; rank < ranks_.size(); ++rank) {
        while (!finished(rank) && passes(rank)) moved = true;
      }
    }
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      if (!finished(rank))
        wrong_.push_back(fmt::format("rank {} waits for ever at '{}'", number_of(ranks_, rank), current(rank).name()));
    }
  }

 private:
  bool finished(size_t rank) const { return next_[rank] == ranks_[rank].program->ops.size(); }
  const Op& current(size_t rank) const { return ranks_[rank].program->ops[next_[rank]]; }

  // Ranks that a rank meets in a group, itself among them.
  const std::vector<size_t>& members_of(Group group, size_t rank) const {
    const auto which = static_cast<size_t>(group);
    return members_[which].at(ranks_[rank].group[which]);
  }

  Group group_of(const Op& op) const {
    const Group group = traits_of(op.kind).group;
    // Where nothing is cut, the sum over all ranks is one over replicas.
    return group == Group::shards && sharding_.shards() == 1 ? Group::replicas : group;
  }

  // Moves the rank, and those that meet it, past its current operation when that can complete.
  bool passes(size_t rank) {
    const Op& op = current(rank);
    const Group group = group_of(op);
    if (group == Group::none) return ++next_[rank] > 0;
    if (group == Group::stages) return exchanges(rank);
    const std::vector<size_t>& members = members_of(group, rank);
    for (const size_t other : members) {
      if (finished(other)) return false;
      const Op& theirs = current(other);
      if (theirs.kind != op.kind || theirs.index != op.index || theirs.micro != op.micro) return false;
    }
    for (const size_t other : members) ++next_[other];
    return true;
  }

  // A message is delivered, to both sides, when both stand at it; the operation is over when all its messages are.
  bool exchanges(size_t rank) {
    const Op& op = current(rank);
    std::vector<bool>& done = done_[rank];
    done.resize(op.messages.size());
    for (size_t i = 0; i < op.messages.size(); ++i) {
      if (!done[i]) done[i] = delivered(rank, op.messages[i]);
    }
    if (!std::all_of(done.begin(), done.end(), [](bool message) { return message; })) return false;
    done.clear();
    ++next_[rank];
    return true;
  }

  bool delivered(size_t rank, const Message& message) {
    for (const size_t other : members_of(Group::stages, rank)) {
      if (ranks_[other].stage != message.stage) continue;
      if (finished(other) || current(other).kind != OpKind::exchange) return false;
      const std::vector<Message>& theirs = current(other).messages;
      for (size_t i = 0; i < theirs.size(); ++i) {
        const Message& their = theirs[i];
        if (their.stage == ranks_[rank].stage && their.sends != message.sends && their.backward == message.backward &&
            their.element == message.element && their.micro == message.micro) {
          done_[other].resize(theirs.size());
          done_[other][i] = true;
          return true;
        }
      }
      return false;
    }
    return false;
  }

  const Sharding& sharding_;
  const std::span<const SimulatedRank> ranks_;
  std::vector<std::string>& wrong_;
  std::vector<size_t> next_;
  std::vector<std::vector<bool>> done_;  // of each rank: which messages of its current exchange
  std::array<std::map<int, std::vector<size_t>>, kGroups> members_;
};

}  // namespace

std::vector<std::string> simulate_alone(const model::TransformerConfig& config, const Sharding& sharding,
                                        const Program& program, int rank) {
  std::vector<std::string> wrong;
  if (!waits_are_sound(program, rank, wrong)) return wrong;
  const Dataflow dataflow(config, sharding, program);
  Values(program, dataflow, rank, wrong).prove();
  return wrong;
}

std::vector<std::string> simulate(const model::TransformerConfig& config, const Sharding& sharding,
                                  std::span<const SimulatedRank> ranks) {
  std::vector<std::string> wrong;
  std::map<const Program*, int> proved;  // ranks that run the same program have the same values
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const Program& program = *ranks[rank].program;
    if (!proved.emplace(&program, static_cast<int>(rank)).second) continue;
    const std::vector<std::string> its = simulate_alone(config, sharding, program, number_of(ranks, rank));
    wrong.insert(wrong.end(), its.begin(), its.end());
  }
  Meeting(sharding, ranks, wrong).prove();
  return wrong;
}

std::vector<std::string> simulate(const model::TransformerConfig& config, const Sharding& sharding,
                                  std::span<const Program> ranks) {
  std::vector<SimulatedRank> list;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const comm::Placement place(sharding.mesh, static_cast<int>(rank));
    list.push_back({.program = &ranks[rank], .stage = place.stage()});
    for (int group = 0; group < kGroups; ++group) {
      list.back().group[static_cast<size_t>(group)] = place.first(axes_of(static_cast<Group>(group), sharding));
    }
    // Only the ends meet as such.
    const bool middle = place.stage() > 0 && place.stage() + 1 < place.size({comm::Axis::pp});
    if (middle) list.back().group[static_cast<size_t>(Group::ends)] = -1 - static_cast<int>(rank);
  }
  return simulate(config, sharding, list);
}

std::vector<std::string> simulate(const model::TransformerConfig& config, const Sharding& sharding,
                                  const Program& program) {
  const SimulatedRank alone{.program = &program};
  return simulate(config, sharding, std::span(&alone, 1));
}

}  // namespace ridgeline::parallel
