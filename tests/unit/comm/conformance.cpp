#include "conformance.h"

#include <fmt/format.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>

#include "ridgeline/base/error.h"

namespace ridgeline::comm::conformance {
namespace {

#define EXPECT(condition, ...)                                                              \
  do {                                                                                      \
    if (!(condition)) throw std::runtime_error(#condition ": " + fmt::format(__VA_ARGS__)); \
  } while (false)

// Where test buffers live: memory that peers see directly, ordinary memory, or a mixture over the ranks.
enum class Where { visible, ordinary, mixed };
constexpr Where kEverywhere[] = {Where::visible, Where::ordinary, Where::mixed};

// Buffers of a case, cut from one peer-visible block per world or from the heap.
class Buffers {
 public:
  Buffers(World& world, Where where)
      : visible_(where == Where::visible || (where == Where::mixed && world.rank() % 2 == 0)) {
    if (visible_) block_ = arena_of(world);
  }
  template <typename T>
  T* take(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (!visible_) {
      heap_.emplace_back(bytes + 64);
      return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(heap_.back().data()) + 63) / 64 * 64);
    }
    used_ = (used_ + 63) / 64 * 64;
    EXPECT(used_ + bytes <= block_.size(), "test arena too small");
    T* data = reinterpret_cast<T*>(block_.data() + used_);
    used_ += bytes;
    return data;
  }

 private:
  // One block per world, asked for by the first case (peer_visible is collective).
  static std::span<std::byte> arena_of(World& world) {
    thread_local World* owner = nullptr;
    thread_local std::span<std::byte> block;
    if (owner != &world || block.empty()) {
      owner = &world;
      block = world.peer_visible((24 << 20) + 4096 * world.rank());
    }
    return block;
  }
  bool visible_;
  std::span<std::byte> block_;
  size_t used_ = 0;
  std::vector<std::vector<std::byte>> heap_;
};

// What rank r holds at i before an operation: of every magnitude, so that another order of summation gives other bits.
template <typename T>
T value(int rank, int64_t i, int salt = 0) {
  uint64_t x = static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ULL +
               static_cast<uint64_t>(rank * 7919 + salt + 1) * 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 31;
  x *= 0x94d049bb133111ebULL;
  x ^= x >> 29;
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(x);
  } else {
    const double unit = static_cast<double>(x >> 11) / 9007199254740992.0 - 0.5;
    // f16: from subnormals to where the sum of a few ranks overflows.
    const int exponent = std::is_same_v<T, f16> ? static_cast<int>(x % 30) - 14 : static_cast<int>(x % 24);
    const double power = std::bit_cast<double>(static_cast<uint64_t>(1023 + exponent) << 52);
    return static_cast<T>(static_cast<float>(unit * power));
  }
}

template <typename T>
bool same_bits(T left, T right) {
  return std::memcmp(&left, &right, sizeof(T)) == 0;
}

template <typename T>
struct Wide {
  using type = T;
};
template <>
struct Wide<bf16> {
  using type = float;
};
template <>
struct Wide<f16> {
  using type = float;
};

// The declared order, written out.
template <typename T>
T expected_reduction(ReduceOp op, int ranks, int sum_group, int64_t i, int salt = 0) {
  using W = typename Wide<T>::type;
  const auto combine = [&](W a, W b) -> W {
    if (op == ReduceOp::sum) {
      if constexpr (std::is_integral_v<T>)
        return static_cast<W>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
      else
        return a + b;
    }
    return op == ReduceOp::max ? (b > a ? b : a) : (b < a ? b : a);
  };
  W total{};
  for (int first = 0; first < ranks; first += sum_group) {
    W part = static_cast<W>(value<T>(first, i, salt));
    for (int r = first + 1; r < std::min(first + sum_group, ranks); ++r)
      part = combine(part, static_cast<W>(value<T>(r, i, salt)));
    total = first == 0 ? part : combine(total, part);
  }
  return static_cast<T>(total);
}

constexpr int64_t kCounts[] = {0, 1, 3, 63, 64, 1000, 4097, 150'001};
constexpr ReduceOp kOps[] = {ReduceOp::sum, ReduceOp::max, ReduceOp::min};

template <typename T>
void all_reduce_of(World& world, Where where) {
  auto comm = world.communicator("all_reduce");
  for (const int64_t count : kCounts) {
    for (const ReduceOp op : kOps) {
      if (count > 5000 && op != ReduceOp::sum) continue;
      Buffers buffers(world, where);
      for (const int64_t offset : {0, 1}) {  // an unaligned start too
        T* data = buffers.take<T>(count + offset + 1) + offset;
        for (int64_t i = 0; i < count; ++i) data[i] = value<T>(comm->rank(), i);
        const T guard = value<T>(99, count);
        data[count] = guard;
        comm->wait(comm->all_reduce(data, count, op, {"gradient", 3, 17}));
        for (int64_t i = 0; i < count; ++i) {
          EXPECT(same_bits(data[i], expected_reduction<T>(op, comm->size(), world.options().sum_group, i)),
                 "all_reduce count {} op {} element {}", count, static_cast<int>(op), i);
        }
        EXPECT(same_bits(data[count], guard), "wrote past the end");
      }
    }
  }
}

template <typename T>
void reduce_scatter_of(World& world, Where where) {
  auto comm = world.communicator("reduce_scatter");
  const int n = comm->size(), me = comm->rank();
  for (const int64_t shard : kCounts) {
    Buffers buffers(world, where);
    T* data = buffers.take<T>(shard * n);
    for (int64_t i = 0; i < shard * n; ++i) data[i] = value<T>(me, i);
    comm->wait(comm->reduce_scatter(data, shard, ReduceOp::sum, {"gradient", 1, 2}));
    for (int64_t i = me * shard; i < (me + 1) * shard; ++i) {
      EXPECT(same_bits(data[i], expected_reduction<T>(ReduceOp::sum, n, world.options().sum_group, i)),
             "shard {} element {}", shard, i);
    }
  }
}

template <typename T>
void all_gather_of(World& world, Where where) {
  auto comm = world.communicator("all_gather");
  const int n = comm->size(), me = comm->rank();
  for (const int64_t shard : kCounts) {
    Buffers buffers(world, where);
    T* data = buffers.take<T>(shard * n);
    for (int64_t i = 0; i < shard * n; ++i) data[i] = value<T>(1000, 0);
    for (int64_t i = me * shard; i < (me + 1) * shard; ++i) data[i] = value<T>(me, i);
    comm->wait(comm->all_gather(data, shard, {"weights"}));
    for (int64_t i = 0; i < shard * n; ++i) {
      EXPECT(same_bits(data[i], value<T>(static_cast<int>(i / std::max<int64_t>(shard, 1)), i)), "shard {} element {}",
             shard, i);
    }
  }
}

template <typename T>
void broadcast_of(World& world, Where where) {
  auto comm = world.communicator("broadcast");
  for (const int64_t count : kCounts) {
    for (const int root : {0, comm->size() - 1}) {
      Buffers buffers(world, where);
      T* data = buffers.take<T>(count);
      for (int64_t i = 0; i < count; ++i) data[i] = value<T>(comm->rank(), i);
      comm->wait(comm->broadcast(data, count, root, {"initial"}));
      for (int64_t i = 0; i < count; ++i)
        EXPECT(same_bits(data[i], value<T>(root, i)), "count {} element {}", count, i);
    }
  }
}

template <typename T>
void all_to_all_of(World& world, Where where) {
  auto comm = world.communicator("all_to_all");
  const int n = comm->size(), me = comm->rank();
  for (const int64_t part : kCounts) {
    if (part * n * 2 * static_cast<int64_t>(sizeof(T)) > (20 << 20)) continue;
    Buffers buffers(world, where);
    T* send = buffers.take<T>(part * n);
    T* receive = buffers.take<T>(part * n);
    for (int64_t i = 0; i < part * n; ++i) send[i] = value<T>(me, i);
    comm->wait(comm->all_to_all(ConstRef(send), receive, part, {"heads"}));
    for (int from = 0; from < n; ++from) {
      for (int64_t i = 0; i < part; ++i) {
        EXPECT(same_bits(receive[from * part + i], value<T>(from, me * part + i)), "part {} from {} element {}", part,
               from, i);
      }
    }
  }
}

// A ring shift, sizes that differ per pair, a message to oneself, and two messages between the same two ranks.
template <typename T>
void exchange_of(World& world, Where where) {
  auto comm = world.communicator("exchange");
  const int n = comm->size(), me = comm->rank();
  const int next = (me + 1) % n, previous = (me + n - 1) % n;
  for (const int64_t count : kCounts) {
    Buffers buffers(world, where);
    const int64_t mine = count + me, theirs = count + previous;
    T* first = buffers.take<T>(mine + 1);
    T* second = buffers.take<T>(7);
    T* got_first = buffers.take<T>(theirs + 1);
    T* got_second = buffers.take<T>(7);
    for (int64_t i = 0; i < mine; ++i) first[i] = value<T>(me, i);
    for (int64_t i = 0; i < 7; ++i) second[i] = value<T>(me, i, 5);
    const Send sends[] = {{next, ConstRef(first), mine}, {next, ConstRef(second), 7}};
    const Receive receives[] = {{previous, got_first, theirs}, {previous, got_second, 7}};
    comm->wait(comm->exchange(sends, receives, {"activations", 0, 1}));
    for (int64_t i = 0; i < theirs; ++i)
      EXPECT(same_bits(got_first[i], value<T>(previous, i)), "count {} element {}", count, i);
    for (int64_t i = 0; i < 7; ++i) EXPECT(same_bits(got_second[i], value<T>(previous, i, 5)), "second, element {}", i);
  }
}

// Long operations of every kind outstanding together: each is cut, and parts of several are under way at once.
void long_outstanding(World& world, Where where) {
  auto comm = world.communicator("long");
  const int n = comm->size(), me = comm->rank(), next = (me + 1) % n, previous = (me + n - 1) % n;
  const int64_t part = 300'001 / n, count = part * n + 1;
  Buffers buffers(world, where);
  const auto filled = [&](int salt) {
    float* data = buffers.take<float>(count);
    for (int64_t i = 0; i < count; ++i) data[i] = value<float>(me, i, salt);
    return data;
  };
  float *reduced = filled(0), *scattered = filled(1), *gathered = filled(2), *spread = filled(3), *sent = filled(4);
  float *received = buffers.take<float>(count), *shifted = buffers.take<float>(100'000), *largest = filled(5);
  comm->all_reduce(reduced, count, ReduceOp::sum, {"reduced"});
  comm->reduce_scatter(scattered, part, ReduceOp::sum, {"scattered"});
  comm->barrier({"between"});
  comm->all_gather(gathered, part, {"gathered"});
  comm->broadcast(spread, count, n - 1, {"spread"});
  const Send send{next, ConstRef(sent), 100'000};
  const Receive receive{previous, shifted, 100'000};
  comm->exchange({&send, 1}, {&receive, 1}, {"shifted"});
  comm->all_to_all(ConstRef(sent), received, part, {"sent"});
  comm->wait(comm->all_reduce(largest, 777, ReduceOp::max, {"largest"}));  // and all before it
  for (int64_t i = 0; i < count; ++i) {
    const int owner = static_cast<int>(std::min<int64_t>(i / part, n - 1));
    const auto sum = [&](int salt) {
      return expected_reduction<float>(ReduceOp::sum, n, world.options().sum_group, i, salt);
    };
    EXPECT(same_bits(reduced[i], sum(0)), "reduced, element {}", i);
    EXPECT(owner != me || i == part * n || same_bits(scattered[i], sum(1)), "scattered, element {}", i);
    EXPECT(i == part * n || same_bits(gathered[i], value<float>(owner, i, 2)), "gathered, element {}", i);
    EXPECT(same_bits(spread[i], value<float>(n - 1, i, 3)), "spread, element {}", i);
    EXPECT(i == part * n || same_bits(received[i], value<float>(owner, me * part + i - owner * part, 4)),
           "received, element {}", i);
    EXPECT(i >= 100'000 || same_bits(shifted[i], value<float>(previous, i, 4)), "shifted, element {}", i);
  }
  for (int64_t i = 0; i < 777; ++i) {
    EXPECT(same_bits(largest[i], expected_reduction<float>(ReduceOp::max, n, world.options().sum_group, i, 5)),
           "largest, element {}", i);
  }
}

// Collectives on one buffer, none waited for: each begins with what the one before it left.
void one_memory(World& world, Where where) {
  auto comm = world.communicator("one memory");
  const int n = comm->size(), me = comm->rank();
  const int64_t part = 200'000 / n, count = part * n;
  Buffers buffers(world, where);
  auto* data = buffers.take<int64_t>(count);
  for (int64_t i = 0; i < count; ++i) data[i] = (me + 1) * (i + 1);
  comm->all_reduce(data, count, ReduceOp::sum, {"once"});
  comm->all_reduce(data, count, ReduceOp::sum, {"twice"});
  comm->reduce_scatter(data, part, ReduceOp::sum, {"three times"});
  comm->wait(comm->all_gather(data, part, {"all"}));
  const int64_t ranks = int64_t{n} * (n + 1) / 2;
  for (int64_t i = 0; i < count; ++i) EXPECT(data[i] == ranks * n * n * (i + 1), "element {}: {}", i, data[i]);
}

template <typename T>
void moves_of(World& world, Where where) {
  all_gather_of<T>(world, where);
  broadcast_of<T>(world, where);
  all_to_all_of<T>(world, where);
  exchange_of<T>(world, where);
}
template <typename T>
void reductions_of(World& world, Where where) {
  all_reduce_of<T>(world, where);
  reduce_scatter_of<T>(world, where);
}

// Max and min keep a NaN of any rank.
void nan_survives(World& world) {
  auto comm = world.communicator("nan");
  for (int owner = 0; owner < comm->size(); ++owner) {
    std::vector<float> data(100, static_cast<float>(comm->rank()));
    if (comm->rank() == owner) data[owner] = data[99] = std::numeric_limits<float>::quiet_NaN();
    comm->wait(comm->all_reduce(data.data(), 100, ReduceOp::max, {"overflow"}));
    EXPECT(std::isnan(data[owner]) && std::isnan(data[99]), "owner {}", owner);
    EXPECT(data[50] == static_cast<float>(comm->size() - 1), "{}", data[50]);
  }
}

// Ranks in two halves and in odds and evens, all communicators in use at once, waited for in another order than
// started.
void split_groups(World& world) {
  const int n = world.size(), me = world.rank();
  std::vector<int> half, parity;
  for (int rank = 0; rank < n; ++rank) {
    if ((rank < (n + 1) / 2) == (me < (n + 1) / 2)) half.push_back(rank);
    if (rank % 2 == me % 2) parity.push_back(rank);
  }
  auto everyone = world.communicator("everyone");
  auto halves = world.communicator(half, "half");
  auto parities = world.communicator(parity, "parity");
  EXPECT(halves->size() == static_cast<int>(half.size()) && halves->world_rank(halves->rank()) == me, "half");
  for (int round = 0; round < 20; ++round) {
    std::vector<int64_t> a(1000, me), b(2000, me), c(5, me);
    const Ticket first = everyone->all_reduce(a.data(), 1000, ReduceOp::sum, {"a", -1, round});
    const Ticket second = halves->all_reduce(b.data(), 2000, ReduceOp::sum, {"b", -1, round});
    const Ticket third = parities->all_reduce(c.data(), 5, ReduceOp::max, {"c", -1, round});
    // Every rank waits in its own order: nobody may wait for a rank that waits elsewhere.
    for (int turn = 0; turn < 3; ++turn) {
      switch ((turn + me + round) % 3) {
        case 0:
          everyone->wait(first);
          break;
        case 1:
          halves->wait(second);
          break;
        default:
          parities->wait(third);
          break;
      }
    }
    int64_t sum = 0;
    for (const int rank : half) sum += rank;
    EXPECT(a[999] == int64_t{n} * (n - 1) / 2 && b[1999] == sum && c[4] == parity.back(), "round {}", round);
  }
}

// More operations outstanding than fit, of all kinds, waited for at the end only.
void many_outstanding(World& world) {
  auto comm = world.communicator("outstanding");
  const int n = comm->size(), me = comm->rank();
  constexpr int kMany = 300;
  std::vector<int64_t> sums(kMany), gathered(static_cast<size_t>(kMany * n)), sent(kMany), received(kMany);
  Ticket last;
  uint64_t previous = 0;
  for (int k = 0; k < kMany; ++k) {
    sums[k] = me + k;
    gathered[static_cast<size_t>(k * n + me)] = me * 1000 + k;
    sent[k] = me * 5000 + k;
    comm->all_reduce(&sums[k], 1, ReduceOp::sum, {"sum", k});
    comm->all_gather(&gathered[static_cast<size_t>(k * n)], 1, {"gather", k});
    const Send send{(me + 1) % n, ConstRef(&sent[k]), 1};
    const Receive receive{(me + n - 1) % n, &received[k], 1};
    last = comm->exchange({&send, 1}, {&receive, 1}, {"shift", k});
    EXPECT(last.number > previous, "tickets ascend");
    previous = last.number;
    if (k % 50 == me)
      comm->barrier({"some"});
    else if (k % 50 < n)
      comm->barrier({"some"});
  }
  comm->wait(last);
  comm->wait(comm->barrier({"end"}));
  comm->wait(last);  // again: complete already
  for (int k = 0; k < kMany; ++k) {
    EXPECT(sums[k] == int64_t{n} * (n - 1) / 2 + int64_t{k} * n, "sum {}", k);
    for (int r = 0; r < n; ++r)
      EXPECT(gathered[static_cast<size_t>(k * n + r)] == r * 1000 + k, "gather {} of {}", k, r);
    EXPECT(received[k] == (me + n - 1) % n * 5000 + k, "shift {}", k);
  }
}

// Only the ranks named take part: 0 and 1 talk, the others call nothing, and a collective after it still matches.
void exchange_of_two(World& world) {
  auto comm = world.communicator("two");
  if (comm->size() < 2) return;
  for (int k = 0; k < 10; ++k) {
    if (comm->rank() == 0) {
      const float data[3] = {1, 2, static_cast<float>(k)};
      const Send send{1, ConstRef(&data[0]), 3};
      comm->wait(comm->exchange({&send, 1}, {}, {"pair"}));
    } else if (comm->rank() == 1) {
      float data[3] = {};
      const Receive receive{0, &data[0], 3};
      comm->wait(comm->exchange({}, {&receive, 1}, {"pair"}));
      EXPECT(data[2] == static_cast<float>(k), "{}", data[2]);
    }
    comm->wait(comm->barrier({"after"}));
  }
}

// A rank that started but computes on holds nobody up: the others finish its work.
void late_waiter(World& world) {
  auto comm = world.communicator("late");
  std::vector<float> data(5000, 1.0F);
  const Ticket ticket = comm->all_reduce(data.data(), 5000, ReduceOp::sum, {"late"});
  if (comm->rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(30));
  comm->wait(ticket);
  EXPECT(data[4999] == static_cast<float>(comm->size()), "{}", data[4999]);
}

}  // namespace

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const Where where : kEverywhere) {
    const char* place = where == Where::visible ? "visible" : where == Where::ordinary ? "ordinary" : "mixed";
    const auto add = [&](const char* name, auto run) {
      list.push_back({fmt::format("{}_{}", name, place), [run, where](World& world) {
                        // Collective, so that a world with mixed buffers asks on every rank.
                        if (where != Where::ordinary) Buffers reserve(world, Where::visible);
                        run(world, where);
                      }});
    };
    add("reduce_f32", reductions_of<float>);
    add("reduce_bf16", reductions_of<bf16>);
    add("reduce_f16", reductions_of<f16>);
    add("reduce_f64", reductions_of<double>);
    add("reduce_i64", reductions_of<int64_t>);
    add("move_f32", moves_of<float>);
    add("move_u8", moves_of<uint8_t>);
    add("move_u16", moves_of<uint16_t>);
    add("move_i64", moves_of<int64_t>);
    add("long_outstanding", long_outstanding);
    add("one_memory", one_memory);
  }
  list.push_back({"nan_survives", nan_survives});
  list.push_back({"split_groups", split_groups});
  list.push_back({"many_outstanding", many_outstanding});
  list.push_back({"exchange_of_two", exchange_of_two});
  list.push_back({"late_waiter", late_waiter});
  return list;
}

std::vector<FailureCase> failure_cases() {
  std::vector<FailureCase> list;
  list.push_back(
      {"size_mismatch",
       20'000,
       [](World& world) {
         std::vector<float> x(200);
         auto comm = world.communicator("data");
         comm->wait(comm->all_reduce(x.data(), world.rank() == 1 ? 101 : 100, ReduceOp::sum, {"gradient", 4, 9}));
       },
       {"all_reduce 'gradient' (segment 4, step 9) of 100 f32", "of 101 f32", "rank 1", "'data'"}});
  list.push_back({"dtype_mismatch",
                  20'000,
                  [](World& world) {
                    std::vector<double> x(200);
                    auto comm = world.communicator("data");
                    const Ref buffer(x.data(), world.rank() == 0 ? DType::f64 : DType::f32);
                    comm->wait(comm->all_gather(buffer, 10, {"weights"}));
                  },
                  {"all_gather 'weights' of 10 f64", "of 10 f32"}});
  list.push_back({"operation_mismatch",
                  20'000,
                  [](World& world) {
                    float x[64] = {};
                    auto comm = world.communicator("data");
                    comm->wait(world.rank() == 0 ? comm->barrier({"end"}) : comm->broadcast(&x[0], 5, 0, {"start"}));
                  },
                  {"barrier 'end'", "broadcast 'start' of 5 f32"}});
  list.push_back({"message_mismatch",
                  20'000,
                  [](World& world) {
                    float x[64] = {};
                    auto comm = world.communicator("stages");
                    const Send send{1, ConstRef(&x[0]), 7};
                    const Receive receive{0, &x[0], 8};
                    if (world.rank() == 0) comm->wait(comm->exchange({&send, 1}, {}, {"out"}));
                    if (world.rank() == 1) comm->wait(comm->exchange({}, {&receive, 1}, {"in"}));
                    comm->wait(comm->barrier({"end"}));
                  },
                  {"rank 0 sends 7 f32", "rank 1 receives 8 f32"}});
  list.push_back({"late_rank",
                  700,
                  [](World& world) {
                    float x[64] = {};
                    auto comm = world.communicator("data");
                    comm->wait(comm->all_reduce(&x[0], 8, ReduceOp::sum, {"first", 0, 1}));
                    if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
                    comm->wait(comm->all_reduce(&x[0], 8, ReduceOp::sum, {"second", 2, 3}));
                  },
                  {"all_reduce 'second' (segment 2, step 3)", "rank 1 did not arrive", "700 ms",
                   "last seen in all_reduce 'first'"}});
  list.push_back({"throwing_rank",
                  20'000,
                  [](World& world) {
                    std::vector<float> x(1000);
                    auto comm = world.communicator("data");
                    for (int step = 0; step < 100; ++step) {
                      const Ticket ticket = comm->all_reduce(x.data(), 1000, ReduceOp::sum, {"gradient", 0, step});
                      if (step == 20 && world.rank() == 1)
                        throw Error("loss is not finite", "Lower the learning rate.");
                      comm->wait(ticket);
                    }
                  },
                  {"rank 1: loss is not finite", "Lower the learning rate."}});
  list.push_back({"ended_rank",
                  20'000,
                  [](World& world) {
                    auto comm = world.communicator("data");
                    if (world.rank() == 1) return;
                    comm->wait(comm->barrier({"end"}));
                  },
                  {"rank 1 has ended", "barrier 'end'"}});
  return list;
}

}  // namespace ridgeline::comm::conformance
