#include "ridgeline/parallel/schedule.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "ridgeline/base/words.h"
#include "support.h"

namespace ridgeline::parallel {
namespace {

using StageSchedules = std::vector<std::vector<ScheduleEntry>>;

// Runs schedules on stages that do one thing at a time, with sends that wait for their receives, and watches which
// values lie where. Knows the rules, and nothing of how schedules are made. Computations take forward 1, each part of a
// backward 1.
class OneThingAtATime {
 public:
  OneThingAtATime(const PipelineShape& shape, const StageSchedules& lists) : shape_(shape), lists_(lists) {
    if (lists.size() != static_cast<size_t>(shape.stages)) complain("{} lists", lists.size());
    stages_.resize(lists.size());
  }

  // What is wrong; nothing when nothing is. `descending`: the order in which stages are looked at, which must not
  // matter.
  std::vector<std::string> run(bool descending) {
    for (bool moved = true; moved;) {
      moved = false;
      for (int i = 0; i < shape_.stages; ++i) {
        const int stage = descending ? shape_.stages - 1 - i : i;
        while (step(stage)) moved = true;
      }
    }
    for (int stage = 0; stage < shape_.stages; ++stage) {
      if (current(stage) != nullptr) complain("stage {} waits for ever at entry {}", stage, at(stage).next);
    }
    count();
    return wrong_;
  }
  int makespan() const {
    int latest = 0;
    for (const State& state : stages_) latest = std::max(latest, state.now);
    return latest;
  }

 private:
  // A value: an output or a gradient of it, by virtual stage and micro-batch.
  using Key = std::tuple<bool, int, int>;
  struct State {
    size_t next = 0;
    int now = 0;
    std::map<Key, int> values;  // present ones, and how often each was used
    std::vector<bool> delivered;
    int begun = -1, over = 0;  // the present exchange
  };

  template <typename... Values>
  void complain(fmt::format_string<Values...> text, Values&&... values) {
    wrong_.push_back(fmt::format(text, std::forward<Values>(values)...));
  }
  State& at(int stage) { return stages_[static_cast<size_t>(stage)]; }
  const ScheduleEntry* current(int stage) {
    const auto& list = lists_[static_cast<size_t>(stage)];
    return at(stage).next < list.size() ? &list[at(stage).next] : nullptr;
  }

  bool step(int stage) {
    const ScheduleEntry* entry = current(stage);
    if (entry == nullptr) return false;
    if (entry->work == Work::exchange) {
      if (!exchange(stage, *entry)) return false;
    } else {
      compute(stage, *entry);
    }
    ++at(stage).next;
    return true;
  }

  void make(int stage, const Key& key) {
    const auto& [backward, chunk, micro] = key;
    if (!at(stage).values.emplace(key, 0).second)
      complain("stage {} makes or receives {} {} micro {} twice", stage, backward ? "gradient" : "output", chunk,
               micro);
  }
  void use(int stage, const Key& key, std::string_view user) {
    const auto& [backward, chunk, micro] = key;
    const auto found = at(stage).values.find(key);
    if (found == at(stage).values.end())
      return complain("stage {}: {} needs {} {} micro {}, which is not there", stage, user,
                      backward ? "gradient" : "output", chunk, micro);
    ++found->second;
  }

  void compute(int stage, const ScheduleEntry& entry) {
    const auto [work, micro, chunk, transfers] = entry;
    const int last = shape_.virtual_stages() - 1;
    if (chunk < 0 || chunk > last || chunk % shape_.stages != stage || micro < 0 || micro >= shape_.micro_batches)
      return complain("stage {} computes virtual stage {} of micro {}", stage, chunk, micro);
    if (!transfers.empty()) complain("stage {}: a computation has transfers", stage);
    if (!done_.emplace(work, chunk, micro).second)
      return complain("virtual stage {} computes micro {} twice", chunk, micro);
    switch (work) {
      case Work::forward:
        if (chunk > 0) use(stage, {false, chunk - 1, micro}, "forward");
        make(stage, {false, chunk, micro});
        at(stage).now += 1;
        break;
      case Work::loss: {
        const auto& list = lists_[static_cast<size_t>(stage)];
        const size_t next = at(stage).next;
        if (next == 0 || list[next - 1] != ScheduleEntry{Work::forward, micro, chunk} || chunk != last)
          complain("stage {}: loss of micro {} not directly after the last forward", stage, micro);
        use(stage, {false, chunk, micro}, "loss");
        make(stage, {true, chunk, micro});
        in_order(Work::loss, chunk, micro);
        break;
      }
      case Work::backward:
      case Work::backward_input:
        if (!done_.contains({Work::forward, chunk, micro})) complain("backward before forward of micro {}", micro);
        use(stage, {true, chunk, micro}, "backward");
        if (chunk > 0) make(stage, {true, chunk - 1, micro});
        in_order(work, chunk, micro);
        at(stage).now += work == Work::backward ? 2 : 1;
        break;
      case Work::backward_weight:
        if (!done_.contains({Work::backward_input, chunk, micro})) complain("weight part of micro {} too early", micro);
        in_order(work, chunk, micro);
        at(stage).now += 1;
        break;
      case Work::exchange:
        break;
    }
  }
  void in_order(Work work, int chunk, int micro) {
    const auto [found, is_first] = latest_.try_emplace({work, chunk}, micro);
    if (!is_first && found->second > micro)
      complain("virtual stage {} adds micro {} after {}", chunk, micro, found->second);
    found->second = micro;
  }

  // Delivers what it can; whether all is delivered.
  bool exchange(int stage, const ScheduleEntry& entry) {
    State& state = at(stage);
    if (state.begun < 0) {
      state.begun = state.over = state.now;
      state.delivered.assign(entry.transfers.size(), false);
      if (entry.transfers.empty()) complain("stage {}: an exchange of nothing", stage);
      for (const Transfer& transfer : entry.transfers) {
        if (transfer.sends) use(stage, {transfer.backward, transfer.chunk, transfer.micro}, "send");
      }
    }
    for (size_t i = 0; i < entry.transfers.size(); ++i) {
      if (!state.delivered[i]) deliver(stage, i, entry.transfers[i]);
    }
    if (std::find(state.delivered.begin(), state.delivered.end(), false) != state.delivered.end()) return false;
    state.now = state.over;
    state.begun = -1;
    for (const Transfer& transfer : entry.transfers) {
      if (!transfer.sends) make(stage, {transfer.backward, transfer.chunk, transfer.micro});
    }
    return true;
  }
  void deliver(int stage, size_t i, const Transfer& transfer) {
    const int partner = transfer.stage;
    if (partner < 0 || partner >= shape_.stages || partner == stage) return;
    const ScheduleEntry* entry = current(partner);
    State &mine = at(stage), &theirs = at(partner);
    if (entry == nullptr || entry->work != Work::exchange || theirs.begun < 0) return;
    const Transfer match{stage, !transfer.sends, transfer.backward, transfer.chunk, transfer.micro};
    for (size_t j = 0; j < entry->transfers.size(); ++j) {
      if (entry->transfers[j] != match || theirs.delivered[j]) continue;
      mine.delivered[i] = theirs.delivered[j] = true;
      const int over = std::max(mine.begun, theirs.begun);
      mine.over = std::max(mine.over, over);
      theirs.over = std::max(theirs.over, over);
      return;
    }
  }

  void count() {
    const bool splits = shape_.kind == ScheduleKind::zero_bubble && shape_.stages > 1;
    std::set<std::tuple<Work, int, int>> due;
    for (int micro = 0; micro < shape_.micro_batches; ++micro) {
      due.emplace(Work::loss, shape_.virtual_stages() - 1, micro);
      for (int chunk = 0; chunk < shape_.virtual_stages(); ++chunk) {
        due.emplace(Work::forward, chunk, micro);
        due.emplace(splits ? Work::backward_input : Work::backward, chunk, micro);
        if (splits) due.emplace(Work::backward_weight, chunk, micro);
      }
    }
    if (due != done_) complain("{} computations, not the {} that are due", done_.size(), due.size());
    for (int stage = 0; stage < shape_.stages; ++stage) {
      for (const auto& [key, uses] : at(stage).values) {
        if (uses == 0)
          complain("stage {}: nobody uses {} {}", stage, std::get<bool>(key) ? "gradient" : "output", std::get<1>(key));
      }
    }
  }

  const PipelineShape& shape_;
  const StageSchedules& lists_;
  std::vector<State> stages_;
  std::set<std::tuple<Work, int, int>> done_;
  std::map<std::pair<Work, int>, int> latest_;
  std::vector<std::string> wrong_;
};

std::vector<std::string> wrong_in(const PipelineShape& shape, const StageSchedules& lists) {
  return OneThingAtATime(shape, lists).run(false);
}

Timeline unit_timeline(const PipelineShape& shape, const Cost& cost = {}) {
  return timeline(schedule(shape), std::vector<Cost>(static_cast<size_t>(shape.virtual_stages()), cost));
}

TEST(schedule, is_complete_ordered_and_free_of_deadlock_for_every_shape) {
  for (const PipelineShape& shape : every_shape()) {
    const StageSchedules lists = schedule(shape);
    for (const bool descending : {false, true}) {
      const std::vector<std::string> wrong = OneThingAtATime(shape, lists).run(descending);
      ASSERT_TRUE(wrong.empty()) << describe(shape) << ": " << wrong.front();
    }
  }
}

TEST(schedule, of_one_stage_finishes_each_micro_batch_before_the_next) {
  for (const ScheduleKind kind :
       {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::interleaved, ScheduleKind::zero_bubble}) {
    for (int micro_batches = 1; micro_batches <= 5; ++micro_batches) {
      std::vector<ScheduleEntry> list;
      for (int micro = 0; micro < micro_batches; ++micro) {
        for (const Work work : {Work::forward, Work::loss, Work::backward}) list.push_back({work, micro});
      }
      EXPECT_EQ(schedule({kind, 1, micro_batches, 1}), StageSchedules{list});
      EXPECT_EQ(schedule(1, micro_batches), StageSchedules{list});
    }
  }
}

TEST(schedule, has_the_idle_share_of_its_kind) {
  for (const PipelineShape& shape : every_shape()) {
    const double p = shape.stages, m = shape.micro_batches, v = shape.chunks;
    const Timeline times = unit_timeline(shape);
    double makespan = 3 * (v * m + p - 1);
    if (shape.kind == ScheduleKind::zero_bubble && p > 1) {
      EXPECT_LT(times.makespan, makespan) << describe(shape);  // less than 1F1B's
      makespan = std::max(3 * m + p - 1, 2 * m + 2 * p - 1);
      if (m >= p) {
        EXPECT_NEAR(times.idle_share, (p - 1) / (3 * m + p - 1), 1e-12) << describe(shape);
      }
    } else {
      EXPECT_NEAR(times.idle_share, (p - 1) / (v * m + p - 1), 1e-12) << describe(shape);
    }
    EXPECT_EQ(times.makespan, makespan) << describe(shape);
    for (const double busy : times.busy) EXPECT_EQ(busy, 3 * v * m);
  }
}

// Where the exchanges stand, waiting for each of them costs nothing as long as messages take no time.
TEST(schedule, takes_no_longer_on_stages_that_do_one_thing_at_a_time) {
  for (const PipelineShape& shape : every_shape()) {
    const StageSchedules lists = schedule(shape);
    OneThingAtATime stages(shape, lists);
    stages.run(false);
    EXPECT_EQ(stages.makespan(), unit_timeline(shape).makespan) << describe(shape);
  }
}

TEST(schedule, keeps_as_many_micro_batches_alive_as_its_kind) {
  for (const PipelineShape& shape : every_shape()) {
    const Timeline times = unit_timeline(shape);
    for (int stage = 0; stage < shape.stages; ++stage) {
      EXPECT_EQ(times.peak_live[static_cast<size_t>(stage)], most_alive(shape, stage))
          << describe(shape) << ", stage " << stage;
    }
  }
}

// Of a transfer's time only the way of the first micro-batch through all stages and back remains.
TEST(schedule, interleaved_hides_messages_behind_computation) {
  for (const PipelineShape& shape : every_shape()) {
    if (shape.chunks == 1 || shape.micro_batches < 2 * shape.stages) continue;
    const Timeline times = unit_timeline(shape, {.transfer = 0.25});
    EXPECT_EQ(times.makespan, unit_timeline(shape).makespan + 2 * (shape.virtual_stages() - 1) * 0.25)
        << describe(shape);
  }
}

TEST(schedule, of_many_stages_is_no_trouble) {
  const PipelineShape shape{ScheduleKind::interleaved, 64, 512, 4};
  EXPECT_NEAR(unit_timeline(shape).idle_share, 63.0 / (4 * 512 + 63), 1e-12);
}

TEST(schedule, kinds_read_back_and_shapes_without_a_schedule_are_refused) {
  EXPECT_EQ(of_word<ScheduleKind>("1f1b"), ScheduleKind::one_f_one_b);
  EXPECT_EQ(of_word<ScheduleKind>("zero-bubble"), ScheduleKind::zero_bubble);
  EXPECT_EQ(word_of(ScheduleKind::interleaved), "interleaved");
  const auto text = [](const PipelineShape& shape) { return refusal(shape).value_or(""); };
  EXPECT_EQ(text({ScheduleKind::interleaved, 4, 8, 2}), "");
  EXPECT_EQ(text({ScheduleKind::interleaved, 1, 7, 1}), "");
  EXPECT_EQ(text({ScheduleKind::interleaved, 4, 6, 2}),
            "the interleaved schedule over 4 stages needs a multiple of 4 micro-batches per step, not 6");
  EXPECT_EQ(text({ScheduleKind::one_f_one_b, 4, 8, 2}),
            "the 1f1b schedule has 1 chunk per stage, not 2: only interleaved has more");
  EXPECT_EQ(text({ScheduleKind::interleaved, 1, 8, 2}), "2 chunks need more than 1 stage to be interleaved");
  EXPECT_NE(text({ScheduleKind::gpipe, 0, 8, 1}), "");
  EXPECT_NE(text({ScheduleKind::gpipe, 2, 0, 1}), "");
  EXPECT_NE(text({ScheduleKind::interleaved, 2, 2, 0}), "");
  EXPECT_DEATH(schedule({ScheduleKind::gpipe, 2, 2, 2}), "only interleaved has more");
}

// ------------------------------------------------------------------------------------- what the tests above would see

size_t position_of(const std::vector<ScheduleEntry>& list, Work work, int micro) {
  const auto found =
      std::find_if(list.begin(), list.end(), [&](const auto& e) { return e.work == work && e.micro == micro; });
  return static_cast<size_t>(found - list.begin());
}
// The first exchange of one message of this direction.
size_t first_exchange(const std::vector<ScheduleEntry>& list, bool sends) {
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].transfers.size() == 1 && list[i].transfers[0].sends == sends) return i;
  }
  return list.size();
}
bool complains_of(const std::vector<std::string>& wrong, std::string_view text) {
  return std::any_of(wrong.begin(), wrong.end(),
                     [&](const std::string& line) { return line.find(text) != std::string::npos; });
}

TEST(schedule_rules, notice_every_missing_entry_and_message) {
  for (const PipelineShape& shape :
       {PipelineShape{ScheduleKind::gpipe, 3, 4, 1}, PipelineShape{ScheduleKind::one_f_one_b, 3, 4, 1},
        PipelineShape{ScheduleKind::interleaved, 2, 4, 2}, PipelineShape{ScheduleKind::zero_bubble, 3, 4, 1}}) {
    const StageSchedules lists = schedule(shape);
    for (size_t stage = 0; stage < lists.size(); ++stage) {
      for (size_t i = 0; i < lists[stage].size(); ++i) {
        StageSchedules changed = lists;
        changed[stage].erase(changed[stage].begin() + static_cast<int>(i));
        EXPECT_FALSE(wrong_in(shape, changed).empty()) << describe(shape) << ", entry " << i << " of stage " << stage;
        for (size_t j = 0; j < lists[stage][i].transfers.size(); ++j) {
          changed = lists;
          auto& transfers = changed[stage][i].transfers;
          transfers.erase(transfers.begin() + static_cast<int>(j));
          EXPECT_FALSE(wrong_in(shape, changed).empty()) << describe(shape) << ", message " << j << " of entry " << i;
        }
      }
    }
  }
}

TEST(schedule_rules, notice_seeded_mistakes) {
  struct Mistake {
    std::string_view notice;
    ScheduleKind kind;
    std::function<void(StageSchedules&)> make;
  };
  using Kind = ScheduleKind;
  const std::vector<Mistake> mistakes = {
      {"adds micro 0 after 1", Kind::gpipe,  // gradients in another order; the last stage has all it needs for either
       [](StageSchedules& lists) {
         auto& list = lists[0];
         std::swap(list[position_of(list, Work::backward, 0)], list[position_of(list, Work::backward, 1)]);
       }},
      {"waits for ever", Kind::gpipe,  // both outputs are there, but they are sent in the other order
       [](StageSchedules& lists) {
         auto& list = lists[0];
         const size_t first = first_exchange(list, true);
         std::rotate(list.begin() + static_cast<int>(first), list.begin() + static_cast<int>(first) + 1,
                     list.begin() + static_cast<int>(first) + 3);
       }},
      {"which is not there", Kind::one_f_one_b,  // sent before it was computed
       [](StageSchedules& lists) {
         const size_t send = first_exchange(lists[0], true);
         std::swap(lists[0][send], lists[0][send - 1]);
       }},
      {"which is not there", Kind::one_f_one_b,  // used before it was received
       [](StageSchedules& lists) {
         const size_t receive = first_exchange(lists[1], false);
         std::swap(lists[1][receive], lists[1][receive + 1]);
       }},
      {"twice", Kind::one_f_one_b,
       [](StageSchedules& lists) {
         lists[1].push_back({Work::forward, 0, 1});
       }},
      {"computes virtual stage 0", Kind::one_f_one_b, [](StageSchedules& lists) { lists[1][0] = lists[0][0]; }},
      {"too early", Kind::zero_bubble,
       [](StageSchedules& lists) {
         auto& list = lists[0];
         std::swap(list[position_of(list, Work::backward_input, 0)], list[position_of(list, Work::backward_weight, 0)]);
       }},
      {"not directly after", Kind::gpipe,  // the loss after the next micro-batch's forward
       [](StageSchedules& lists) {
         auto& list = lists.back();
         const auto from = list.begin() + static_cast<int>(position_of(list, Work::loss, 0));
         const auto to = list.begin() + static_cast<int>(position_of(list, Work::forward, 1));
         std::rotate(from, from + 1, to + 1);
       }},
      {"waits for ever", Kind::one_f_one_b,  // received from the wrong stage
       [](StageSchedules& lists) { lists[2][first_exchange(lists[2], false)].transfers[0].stage = 0; }},
      {"waits for ever", Kind::zero_bubble,  // two sends, and nobody receives
       [](StageSchedules& lists) { lists[1][first_exchange(lists[1], false)].transfers[0].sends = true; }},
      {"twice", Kind::gpipe,  // the same message once more, on both sides
       [](StageSchedules& lists) {
         const ScheduleEntry send = lists[0][first_exchange(lists[0], true)];
         lists[0].push_back(send);
         ScheduleEntry receive = send;
         receive.transfers[0].stage = 0;
         receive.transfers[0].sends = false;
         lists[1].push_back(receive);
       }},
  };
  for (size_t i = 0; i < mistakes.size(); ++i) {
    const PipelineShape shape{mistakes[i].kind, 3, 4, 1};
    StageSchedules lists = schedule(shape);
    const StageSchedules before = lists;
    mistakes[i].make(lists);
    ASSERT_NE(lists, before) << i;
    EXPECT_TRUE(complains_of(wrong_in(shape, lists), mistakes[i].notice)) << "mistake " << i;
  }
}

// --------------------------------------------------------------------------------------------------------- timeline

TEST(timeline, follows_costs_through_two_stages_and_back) {
  const PipelineShape shape{ScheduleKind::one_f_one_b, 2, 1, 1};
  const std::vector<Cost> costs = {
      {.forward = 1, .backward_input = 2, .backward_weight = 3, .transfer = 0.25},
      {.forward = 4, .backward_input = 5, .backward_weight = 6, .loss = 0.5, .transfer = 100}};
  const StageSchedules lists = schedule(shape);
  const Timeline times = timeline(lists, costs);
  const auto expect = [&](size_t stage, const std::vector<std::tuple<Work, double, double>>& entries) {
    ASSERT_EQ(times.entries[stage].size(), entries.size());
    for (size_t i = 0; i < entries.size(); ++i) {
      const auto& [work, begin, end] = entries[i];
      EXPECT_EQ(lists[stage][i].work, work);
      EXPECT_EQ(times.entries[stage][i].begin, begin) << "entry " << i << " of stage " << stage;
      EXPECT_EQ(times.entries[stage][i].end, end) << "entry " << i << " of stage " << stage;
    }
  };
  expect(0, {{Work::forward, 0, 1}, {Work::exchange, 1, 1.25}, {Work::exchange, 1.25, 17}, {Work::backward, 17, 22}});
  expect(1, {{Work::exchange, 0, 1.25},
             {Work::forward, 1.25, 5.25},
             {Work::loss, 5.25, 5.75},
             {Work::backward, 5.75, 16.75},
             {Work::exchange, 16.75, 17}});
  EXPECT_EQ(times.makespan, 22);
  EXPECT_EQ(times.busy, (std::vector<double>{6, 15.5}));
  EXPECT_EQ(times.idle_share, 1 - 21.5 / 44);
  EXPECT_EQ(times.peak_live, (std::vector<int>{1, 1}));
}

TEST(timeline, ends_at_schedules_in_which_stages_wait_for_ever) {
  const PipelineShape shape{ScheduleKind::one_f_one_b, 2, 2, 1};
  StageSchedules lists = schedule(shape);
  lists[1].erase(lists[1].begin() + static_cast<int>(first_exchange(lists[1], true)));
  EXPECT_DEATH(timeline(lists, std::vector<Cost>(2)), "stage 0 waits for ever");
}

// --------------------------------------------------------------------------------------------------------- balance

double largest_part(std::span<const double> blocks, double before, double after, const std::vector<int>& parts) {
  double largest = 0;
  size_t next = 0;
  for (size_t part = 0; part < parts.size(); ++part) {
    double sum = (part == 0 ? before : 0) + (part + 1 == parts.size() ? after : 0);
    for (int i = 0; i < parts[part]; ++i) sum += blocks[next++];
    largest = std::max(largest, sum);
  }
  EXPECT_EQ(next, blocks.size());
  return largest;
}
// Over all cuts.
double smallest_largest_part(std::span<const double> blocks, double before, double after, int parts) {
  double smallest = 1e300;
  std::vector<int> cut;
  const std::function<void(int)> go = [&](int rest) {
    const int later = parts - static_cast<int>(cut.size()) - 1;
    for (int size = later == 0 ? rest : 1; size <= rest - later; ++size) {
      cut.push_back(size);
      if (later == 0)
        smallest = std::min(smallest, largest_part(blocks, before, after, cut));
      else
        go(rest - size);
      cut.pop_back();
    }
  };
  go(static_cast<int>(blocks.size()));
  return smallest;
}

TEST(balanced, has_the_smallest_largest_part_of_all_cuts) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> cost(0, 3);
  for (int count = 1; count <= 10; ++count) {
    for (int parts = 1; parts <= std::min(count, 5); ++parts) {
      std::vector<double> blocks(static_cast<size_t>(count));
      for (double& block : blocks) block = cost(random);
      for (const double ends : {0.0, 2.5, 20.0}) {
        const std::vector<int> cut = balanced(blocks, ends, ends / 2, parts);
        ASSERT_EQ(cut.size(), static_cast<size_t>(parts));
        EXPECT_GE(*std::min_element(cut.begin(), cut.end()), 1);
        EXPECT_NEAR(largest_part(blocks, ends, ends / 2, cut), smallest_largest_part(blocks, ends, ends / 2, parts),
                    1e-9);
      }
    }
  }
}

TEST(balanced, prefers_even_cuts_and_then_fewer_blocks_at_first) {
  const std::vector<double> alike(10, 0.1);
  EXPECT_EQ(balanced(alike, 0, 0, 4), (std::vector<int>{2, 2, 3, 3}));
  EXPECT_EQ(balanced(alike, 0, 0.2, 4), (std::vector<int>{3, 3, 3, 1}));
  EXPECT_EQ(balanced(alike, 0.1, 0.2, 4), (std::vector<int>{2, 3, 3, 2}));
  EXPECT_EQ(balanced(alike, 0, 9, 3), (std::vector<int>{4, 5, 1}));  // the end decides alone: the rest is still even
  EXPECT_EQ(balanced(alike, 0, 0, 10), (std::vector<int>(10, 1)));
  EXPECT_EQ(balanced(alike, 3, 4, 1), (std::vector<int>{10}));
  EXPECT_EQ(balanced(std::vector<double>(12, 1), 0, 0, 4), (std::vector<int>(4, 3)));
}

}  // namespace
}  // namespace ridgeline::parallel
