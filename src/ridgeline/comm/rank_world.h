// One rank's World: its communicators, and how it waits. The backends derive from it.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "ridgeline/comm/host.h"
#include "ridgeline/comm/throttled.h"

namespace ridgeline::comm::detail {

// What a World drives while its rank waits: a communicator's outstanding operations.
class Engine {
 public:
  virtual ~Engine() = default;
  // Does whatever can be done now without waiting; true when anything moved. Throws on failure.
  virtual bool progress() = 0;
  virtual bool outstanding() const = 0;
  virtual uint64_t completed() const = 0;  // tickets 1 … completed() are complete
  // World ranks that the oldest outstanding operation waits for, into `ranks` (nothing allocated); how many.
  virtual int missing(std::span<int> ranks) const = 0;
  // "all_reduce 'gradient' (segment 3, step 17) on communicator 'data'" of the oldest outstanding operation.
  virtual std::string waiting_in() const = 0;
};

class RankWorld : public World {
 public:
  RankWorld(Host& host, int local) : host_(host), local_(local), link_(host.options().link) {}

  int rank() const override { return host_.world_rank(local_); }
  int size() const override { return host_.world_size(); }
  const WorldOptions& options() const override { return host_.options(); }
  int ranks_of_host() const override { return host_.ranks(); }
  int ranks_on_processors() const override { return host_.ranks_on_processors(); }
  int hosts() const override { return host_.hosts(); }
  int host_of(int /*rank*/) const override { return 0; }
  std::unique_ptr<Communicator> communicator(std::span<const int> ranks, std::string_view name) override;
  Failure fail(std::string_view what) noexcept override { return fail(what, {}); }
  Failure fail(std::string_view what, std::string_view next) noexcept;
  Failure refuse(const Error& error) noexcept;

  Host& host() const { return host_; }
  int local() const { return local_; }

  void add(Engine* engine) { engines_.push_back(engine); }
  void remove(Engine* engine) { std::erase(engines_, engine); }
  // Returns when done() holds, doing meanwhile what can be done on any communicator. `engine` is the one waited for.
  template <typename Done>
  void wait_until(const Engine& engine, const Done& done) {
    wait_until(
        engine, [](const void* context) { return (*static_cast<const Done*>(context))(); }, &done);
  }
  void check_failed() const {
    if (host_.failed()) host_.throw_failure();
  }
  void record_operation(uint64_t board, RequestKind kind, const Label& label);
  // Throws, after making the world fail.
  [[noreturn]] void fail_and_throw(const Failure& failure) const {
    host_.fail(failure);
    host_.throw_failure();
  }
  // The same, because ranks of a communicator start different things: one of them, in which of its operations, and
  // what.
  [[noreturn]] void disagree(int culprit, std::string_view communicator, const std::string& operation,
                             std::string_view what) const;

 protected:
  // A communicator whose ranks are not all on this host.
  virtual std::unique_ptr<Communicator> wide_communicator(std::span<const int> ranks, std::string_view name,
                                                          uint64_t key);
  // While true a waiting rank only naps: what it waits for rings no bell.
  virtual bool must_poll() const { return false; }

 private:
  void wait_until(const Engine& engine, bool (*done)(const void*), const void* context);
  bool progress_all();
  void on_nap(const Engine& engine, int64_t since);
  [[noreturn]] void time_out(const Engine& engine);
  void await_verdict(const Engine& engine);

  Host& host_;
  int local_;
  LinkClock link_;
  std::vector<Engine*> engines_;
  std::map<uint64_t, uint64_t> made_;  // communicators made per (name, ranks)
};

}  // namespace ridgeline::comm::detail
