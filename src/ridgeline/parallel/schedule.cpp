#include "ridgeline/parallel/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/base/words.h"

namespace ridgeline::parallel {
namespace {

using StageLists = std::vector<std::vector<ScheduleEntry>>;

bool is_backward(Work work) {
  return work == Work::backward || work == Work::backward_input;
}
bool splits_backward(const PipelineShape& shape) {
  return shape.kind == ScheduleKind::zero_bubble && shape.stages > 1;
}

// ---------------------------------------------------------------------------------------------- order of one stage

// Forwards before the first forward that a backward follows.
int warm_up(const PipelineShape& shape, int stage) {
  const int all = shape.micro_batches * shape.chunks, behind = shape.stages - 1 - stage;
  if (shape.stages == 1) return 0;
  if (shape.kind == ScheduleKind::gpipe) return all;
  if (shape.chunks == 1) return std::min(all, behind);
  return std::min(all, 2 * behind + (shape.chunks - 1) * shape.stages);
}

// All kinds are one: backward `i` follows upon forward `i + warm_up`, and weight part `i` upon backward `i + delay`.
// Over its chunks a stage takes `stages` micro-batches at a time: all of them through one chunk, then through the next.
std::vector<ScheduleEntry> computations_of(const PipelineShape& shape, int stage) {
  std::vector<ScheduleEntry> list;
  const int all = shape.micro_batches * shape.chunks, warm = warm_up(shape, stage);
  const bool splits = splits_backward(shape);
  const int delay = splits ? stage : 0;
  const int group = shape.stages * shape.chunks;
  const auto add = [&](Work work, int number) {
    const int position = number % group / shape.stages;
    const int chunk = work == Work::forward ? position : shape.chunks - 1 - position;
    list.push_back({work, number / group * shape.stages + number % shape.stages, chunk * shape.stages + stage});
    if (work == Work::forward && list.back().chunk == shape.virtual_stages() - 1)
      list.push_back({Work::loss, list.back().micro, list.back().chunk});
  };
  for (int i = 0; i < all + warm + delay; ++i) {
    const int backward = i - warm, weight = backward - delay;
    if (i < all) add(Work::forward, i);
    if (backward >= 0 && backward < all) add(splits ? Work::backward_input : Work::backward, backward);
    if (splits && weight >= 0) add(Work::backward_weight, weight);
  }
  return list;
}

// ------------------------------------------------------------------------------------------------------- exchanges

// What computations leave for another virtual stage: its output, or the gradient of the one before it. Dense numbers.
class Products {
 public:
  Products(int virtual_stages, int micro_batches) : virtual_stages_(virtual_stages), micro_batches_(micro_batches) {}
  size_t size() const { return 2 * static_cast<size_t>(virtual_stages_) * static_cast<size_t>(micro_batches_); }
  size_t of(bool backward, int chunk, int micro) const {
    const int row = backward ? virtual_stages_ + chunk : chunk;
    return static_cast<size_t>(row) * static_cast<size_t>(micro_batches_) + static_cast<size_t>(micro);
  }
  size_t of(const Transfer& transfer) const { return of(transfer.backward, transfer.chunk, transfer.micro); }

 private:
  int virtual_stages_, micro_batches_;
};

// Calls `advance(stage)`, which moves a stage as far as it gets and says whether it moved, until none moves any more.
template <typename Advance>
void run_until_still(size_t stages, const Advance& advance) {
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t stage = 0; stage < stages; ++stage) moved = advance(stage) || moved;
  }
}

// Begins of all computations where a forward, with its loss, and each part of a backward take 1: whole numbers, so that
// what happens at one time is known exactly.
class UnitTimes {
 public:
  UnitTimes(const PipelineShape& shape, const StageLists& lists)
      : shape_(shape),
        lists_(lists),
        products_(shape.virtual_stages(), shape.micro_batches),
        made_(products_.size(), -1),
        now_(lists.size(), 0),
        begins_(lists.size()) {
    run_until_still(lists.size(), [&](size_t stage) { return advance(stage); });
  }
  int begin(size_t stage, size_t position) const { return begins_[stage][position]; }
  // When it has been computed.
  int made(const Transfer& transfer) const { return made_[products_.of(transfer)]; }

 private:
  static int duration(Work work) { return work == Work::backward ? 2 : 1; }

  bool advance(size_t stage) {
    const size_t before = begins_[stage].size();
    while (begins_[stage].size() < lists_[stage].size()) {
      const ScheduleEntry& entry = lists_[stage][begins_[stage].size()];
      // Of one time are the loss and its forward, so that no message comes between them.
      const int begin = entry.work == Work::loss ? begins_[stage].back() : std::max(now_[stage], input_time(entry));
      if (begin == kNever) break;
      begins_[stage].push_back(begin);
      if (entry.work != Work::loss) now_[stage] = begin + duration(entry.work);
      if (entry.work == Work::forward) made_[products_.of(false, entry.chunk, entry.micro)] = now_[stage];
      if (is_backward(entry.work) && entry.chunk > 0)
        made_[products_.of(true, entry.chunk - 1, entry.micro)] = now_[stage];
    }
    return begins_[stage].size() > before;
  }

  int input_time(const ScheduleEntry& entry) const {
    const bool backward = is_backward(entry.work);
    const int chunk = backward ? entry.chunk : entry.chunk - 1;
    if (!backward && entry.work != Work::forward) return 0;
    if (chunk < 0 || chunk == shape_.virtual_stages() - 1) return 0;
    const int made = made_[products_.of(backward, chunk, entry.micro)];
    // The interleaved order leaves a forward's time between a gradient and its use. Without that the receiver would
    // list it one computation later: it could not travel meanwhile, and ranks that do one thing at a time would be
    // slower.
    const int travel = backward && shape_.chunks > 1 ? 1 : 0;
    return made < 0 ? kNever : made + travel;
  }

  static constexpr int kNever = std::numeric_limits<int>::max();
  const PipelineShape& shape_;
  const StageLists& lists_;
  const Products products_;
  std::vector<int> made_, now_;
  std::vector<std::vector<int>> begins_;
};

// Of every stage: messages by the time from which they can travel.
std::vector<std::map<int, std::vector<Transfer>>> messages_of(const PipelineShape& shape, const UnitTimes& times) {
  std::vector<std::map<int, std::vector<Transfer>>> messages(static_cast<size_t>(shape.stages));
  for (const bool backward : {false, true}) {
    for (int chunk = 0; chunk + 1 < shape.virtual_stages(); ++chunk) {
      const int from = shape.stage_of(backward ? chunk + 1 : chunk), to = shape.stage_of(backward ? chunk : chunk + 1);
      for (int micro = 0; micro < shape.micro_batches; ++micro) {
        const Transfer send{.stage = to, .sends = true, .backward = backward, .chunk = chunk, .micro = micro};
        Transfer receive = send;
        receive.stage = from;
        receive.sends = false;
        messages[static_cast<size_t>(from)][times.made(send)].push_back(send);
        messages[static_cast<size_t>(to)][times.made(send)].push_back(receive);
      }
    }
  }
  return messages;
}

}  // namespace

std::span<const std::string_view> words_of(ScheduleKind /*type*/) {
  static constexpr std::array<std::string_view, 4> kWords = {"gpipe", "1f1b", "interleaved", "zero-bubble"};
  return kWords;
}

std::optional<std::string> refusal(const PipelineShape& shape) {
  if (shape.stages < 1) return fmt::format("a pipeline has at least 1 stage, not {}", shape.stages);
  if (shape.micro_batches < 1) return fmt::format("a step has at least 1 micro-batch, not {}", shape.micro_batches);
  if (shape.chunks < 1) return fmt::format("a stage has at least 1 chunk, not {}", shape.chunks);
  if (shape.chunks > 1 && shape.kind != ScheduleKind::interleaved)
    return fmt::format("the {} schedule has 1 chunk per stage, not {}: only interleaved has more", word_of(shape.kind),
                       shape.chunks);
  if (shape.chunks > 1 && shape.stages == 1)
    return fmt::format("{} chunks need more than 1 stage to be interleaved", shape.chunks);
  if (shape.kind == ScheduleKind::interleaved && shape.micro_batches % shape.stages != 0)
    return fmt::format("the interleaved schedule over {} stages needs a multiple of {} micro-batches per step, not {}",
                       shape.stages, shape.stages, shape.micro_batches);
  return std::nullopt;
}

StageLists schedule(const PipelineShape& shape) {
  const std::optional<std::string> refused = refusal(shape);
  RL_REQUIRE(!refused, "{}", *refused);
  StageLists computations;
  for (int stage = 0; stage < shape.stages; ++stage) computations.push_back(computations_of(shape, stage));
  const UnitTimes times(shape, computations);
  const auto messages = messages_of(shape, times);
  StageLists lists(computations.size());
  for (size_t stage = 0; stage < lists.size(); ++stage) {
    auto next = messages[stage].begin();
    const auto exchange_until = [&](int time) {
      for (; next != messages[stage].end() && next->first <= time; ++next)
        lists[stage].push_back({.work = Work::exchange, .micro = 0, .transfers = next->second});
    };
    for (size_t i = 0; i < computations[stage].size(); ++i) {
      exchange_until(times.begin(stage, i));
      lists[stage].push_back(std::move(computations[stage][i]));
    }
    exchange_until(std::numeric_limits<int>::max());
  }
  return lists;
}

// --------------------------------------------------------------------------------------------------------- timeline

namespace {

double cost_of(Work work, const Cost& cost) {
  switch (work) {
    case Work::forward:
      return cost.forward;
    case Work::loss:
      return cost.loss;
    case Work::backward:
      return cost.backward_input + cost.backward_weight;
    case Work::backward_input:
      return cost.backward_input;
    case Work::backward_weight:
      return cost.backward_weight;
    case Work::exchange:
      return 0;
  }
  RL_NO_CASE(work);
}

// Goes through the lists with one hand per stage, which waits at an exchange until all sides stand at it: by the order
// of exchanges that always gets to the end. Times are kept per stream.
class Clock {
 public:
  Clock(const StageLists& lists, std::span<const Cost> costs)
      : lists_(lists),
        costs_(costs),
        products_(static_cast<int>(costs.size()), micro_batches_of(lists)),
        met_(products_.size(), {-1, 0}),
        arrived_(products_.size(), -1),
        stages_(lists.size()) {
    timeline_.entries.resize(lists.size());
    run_until_still(lists.size(), [&](size_t stage) { return advance(stage); });
    for (size_t stage = 0; stage < lists.size(); ++stage) {
      RL_REQUIRE(at(stage) == lists[stage].size(), "stage {} waits for ever at entry {} of its schedule", stage,
                 at(stage));
    }
    sum_up();
  }
  Timeline take() { return std::move(timeline_); }

 private:
  struct Stage {
    double computed = 0, exchanged = 0;  // until when each stream is busy
    double busy = 0;
    // Of the exchange at which the stage stands.
    bool stands = false;
    int missing = 0;  // messages whose other side does not stand yet
    Period exchange{};
    int live = 0, peak_live = 0;
  };
  // The side of a message that came first.
  struct Side {
    int stage;
    double begin;
  };

  static int micro_batches_of(const StageLists& lists) {
    int last = 0;
    for (const auto& list : lists) {
      for (const ScheduleEntry& entry : list) last = std::max(last, entry.micro);
    }
    return last + 1;
  }
  size_t at(size_t stage) const { return timeline_.entries[stage].size(); }

  bool advance(size_t number) {
    const size_t before = at(number);
    while (at(number) < lists_[number].size()) {
      const ScheduleEntry& entry = lists_[number][at(number)];
      if (entry.work != Work::exchange)
        compute(number, entry);
      else if (!exchange(number, entry))
        break;
    }
    return at(number) > before;
  }

  void compute(size_t number, const ScheduleEntry& entry) {
    Stage& stage = stages_[number];
    const double begin = std::max(stage.computed, input_time(entry)), duration = cost_of(entry.work, cost(entry.chunk));
    stage.computed = begin + duration;
    stage.busy += duration;
    if (entry.work == Work::forward) stage.peak_live = std::max(stage.peak_live, ++stage.live);
    if (entry.work == Work::backward || entry.work == Work::backward_weight) --stage.live;
    timeline_.entries[number].push_back({begin, stage.computed});
  }

  // When the exchange that brings an entry's input ended; 0 where none does.
  double input_time(const ScheduleEntry& entry) const {
    const bool backward = is_backward(entry.work);
    const int chunk = backward ? entry.chunk : entry.chunk - 1;
    if (!backward && entry.work != Work::forward) return 0;
    if (chunk < 0 || chunk + 1 == static_cast<int>(costs_.size())) return 0;
    const double time = arrived_[products_.of(backward, chunk, entry.micro)];
    RL_REQUIRE(time >= 0, "{} of virtual stage {}, micro-batch {}, before its input is there",
               backward ? "backward" : "forward", entry.chunk, entry.micro);
    return time;
  }

  // Whether the exchange is over.
  bool exchange(size_t number, const ScheduleEntry& entry) {
    Stage& stage = stages_[number];
    if (!stage.stands) {
      stage.stands = true;
      const double begin = std::max(stage.computed, stage.exchanged);
      stage.exchange = {begin, begin};
      for (const Transfer& transfer : entry.transfers) meet(number, transfer);
    }
    if (stage.missing > 0) return false;
    stage.stands = false;
    stage.exchanged = stage.exchange.end;
    for (const Transfer& transfer : entry.transfers) {
      if (!transfer.sends) arrived_[products_.of(transfer)] = stage.exchanged;
    }
    timeline_.entries[number].push_back(stage.exchange);
    return true;
  }

  void meet(size_t number, const Transfer& transfer) {
    Stage& stage = stages_[number];
    Side& first = met_[products_.of(transfer)];
    if (first.stage < 0) {
      first = {static_cast<int>(number), stage.exchange.begin};
      ++stage.missing;
      return;
    }
    Stage& other = stages_[static_cast<size_t>(first.stage)];
    const double end = std::max(stage.exchange.begin, first.begin) + cost(transfer.chunk).transfer;
    stage.exchange.end = std::max(stage.exchange.end, end);
    other.exchange.end = std::max(other.exchange.end, end);
    --other.missing;
  }

  void sum_up() {
    double busy = 0;
    for (const Stage& stage : stages_) {
      timeline_.makespan = std::max({timeline_.makespan, stage.computed, stage.exchanged});
      timeline_.busy.push_back(stage.busy);
      timeline_.peak_live.push_back(stage.peak_live);
      busy += stage.busy;
    }
    if (timeline_.makespan > 0)
      timeline_.idle_share = 1 - busy / (static_cast<double>(stages_.size()) * timeline_.makespan);
  }

  const Cost& cost(int chunk) const { return costs_[static_cast<size_t>(chunk)]; }

  const StageLists& lists_;
  const std::span<const Cost> costs_;
  const Products products_;
  std::vector<Side> met_;
  std::vector<double> arrived_;
  std::vector<Stage> stages_;
  Timeline timeline_;
};

}  // namespace

Timeline timeline(const StageLists& schedule, std::span<const Cost> costs) {
  return Clock(schedule, costs).take();
}

// --------------------------------------------------------------------------------------------------------- balance

std::vector<int> balanced(std::span<const double> blocks, double before, double after, int parts) {
  const int count = static_cast<int>(blocks.size());
  RL_REQUIRE(parts >= 1 && parts <= count, "{} blocks in {} parts", count, parts);
  std::vector<double> sums(blocks.size() + 1, 0);
  std::partial_sum(blocks.begin(), blocks.end(), sums.begin() + 1);
  const auto size = [&](int part, int first, int last) {
    return sums[static_cast<size_t>(last)] - sums[static_cast<size_t>(first)] + (part == 0 ? before : 0) +
           (part == parts - 1 ? after : 0);
  };
  // What is equal on paper must not differ by rounding.
  const auto less = [](double a, double b) { return a < b * (1 - 1e-12); };
  constexpr double kNone = std::numeric_limits<double>::infinity();
  // best[part][first]: of blocks `first` … in parts `part` …; ends[part][first]: where the first of these parts ends.
  using Row = std::vector<double>;
  std::vector<std::vector<int>> ends(static_cast<size_t>(parts), std::vector<int>(blocks.size() + 1, 0));
  const auto solve = [&](const auto& join) {
    Row later(blocks.size() + 1, kNone);
    later.back() = 0;
    for (int part = parts - 1; part >= 0; --part) {
      Row best(blocks.size() + 1, kNone);
      for (int first = part; first < count; ++first) {
        for (int last = first + 1; last <= count; ++last) {
          const double joined = join(size(part, first, last), later[static_cast<size_t>(last)]);
          if (!less(joined, best[static_cast<size_t>(first)])) continue;
          best[static_cast<size_t>(first)] = joined;
          ends[static_cast<size_t>(part)][static_cast<size_t>(first)] = last;
        }
      }
      later = std::move(best);
    }
    return later.front();
  };
  const double largest = solve([](double part, double rest) { return std::max(part, rest); });
  solve([&](double part, double rest) { return less(largest, part) ? kNone : part * part + rest; });
  std::vector<int> cut;
  for (int part = 0, first = 0; part < parts; ++part) {
    const int last = ends[static_cast<size_t>(part)][static_cast<size_t>(first)];
    cut.push_back(last - first);
    first = last;
  }
  return cut;
}

}  // namespace ridgeline::parallel
