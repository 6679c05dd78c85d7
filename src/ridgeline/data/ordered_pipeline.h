// One producer, several workers, one consumer that sees the items in the order in which they were produced: how corpora
// go through all cores and still give the same file on any number of them. Internal to the room.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "ridgeline/base/error.h"

namespace ridgeline::data {

// Throws Error when the system starts no more threads.
template <typename F>
void start_worker(std::vector<std::thread>& workers, int all, F&& f) {
  try {
    workers.emplace_back(std::forward<F>(f));
  } catch (const std::system_error& error) {
    throw Error(system_error(fmt::format("cannot start thread {} of {}", workers.size() + 1, all), error.code().value())
                    .message(),
                "Use fewer --threads, or raise the limit on processes (ulimit -u, the job's limit on tasks).");
  }
}

// How much a pipeline holds at a time, beyond its last item: weigh(item) of all after they were produced, per thread.
inline constexpr size_t kPipelineWeight = size_t{8} << 20;

// Empties a string or a vector of an item that is used again. What an unusual one has grown to is given back.
template <typename Container>
void clear_for_reuse(Container& container) {
  if (container.capacity() * sizeof(typename Container::value_type) > kPipelineWeight) {
    Container().swap(container);  // an assigned empty string would keep its memory
  } else {
    container.clear();
  }
}

// produce(item) -> bool and commit(item) run on the calling thread, work(worker, item) on `threads` >= 1 threads with
// worker = 0 … threads-1 (one thread: all on the caller). At most 2 * threads + 1 items exist at a time, and none is
// produced while those that exist weigh threads * kPipelineWeight or more. `produce` overwrites the item, which is new
// or one that was committed: its memory is there to be used again, since pages that are new each time cost as much as
// what is done with them. The first exception, in order of items, ends everything and is rethrown; what `produce`
// throws stands in the place of its item.
template <typename Item, typename Produce, typename Weigh, typename Work, typename Commit>
void ordered_pipeline(int threads, Produce produce, Weigh weigh, Work work, Commit commit) {
  if (threads <= 1) {
    for (Item item; produce(item);) {
      work(0, item);
      commit(item);
    }
    return;
  }
  struct Job {
    Item item{};
    size_t weight = 0;
    bool done = false;
    std::exception_ptr error;
  };
  std::mutex mutex;
  std::condition_variable work_ready, work_done;
  std::deque<Job*> waiting;
  bool closed = false;

  std::deque<std::unique_ptr<Job>> in_order;
  std::vector<std::unique_ptr<Job>> committed;
  std::vector<std::thread> workers;
  // Ends the workers on every way out; what still waits is dropped.
  const auto stop = [&] {
    {
      const std::lock_guard lock(mutex);
      closed = true;
      waiting.clear();
    }
    work_ready.notify_all();
    for (std::thread& worker : workers) worker.join();
    workers.clear();
  };
  try {
    for (int w = 0; w < threads; ++w) {
      start_worker(workers, threads, [&, w] {
        std::unique_lock lock(mutex);
        while (true) {
          work_ready.wait(lock, [&] { return closed || !waiting.empty(); });
          if (waiting.empty()) return;
          Job* job = waiting.front();
          waiting.pop_front();
          lock.unlock();
          try {
            work(w, job->item);
          } catch (...) {
            job->error = std::current_exception();
          }
          lock.lock();
          job->done = true;
          work_done.notify_one();
        }
      });
    }
    const size_t most = 2 * static_cast<size_t>(threads) + 1;
    const size_t heaviest = static_cast<size_t>(threads) * kPipelineWeight;
    size_t weight = 0;
    // The next item, at the back of in_order; false when there is none.
    const auto add_job = [&] {
      std::unique_ptr<Job> job;
      if (committed.empty()) {
        job = std::make_unique<Job>();
      } else {
        job = std::move(committed.back());
        committed.pop_back();
        job->done = false;
      }
      try {
        if (!produce(job->item)) return false;
        weight += job->weight = weigh(job->item);
      } catch (...) {
        job->error = std::current_exception();
        job->done = true;
      }
      in_order.push_back(std::move(job));
      if (in_order.back()->done) return false;
      {
        const std::lock_guard lock(mutex);
        waiting.push_back(in_order.back().get());
      }
      work_ready.notify_one();
      return true;
    };
    bool more = true;
    while (more || !in_order.empty()) {
      while (more && in_order.size() < most && weight < heaviest) more = add_job();
      if (in_order.empty()) break;
      Job& job = *in_order.front();
      {
        std::unique_lock lock(mutex);
        work_done.wait(lock, [&] { return job.done; });
      }
      if (job.error) std::rethrow_exception(job.error);
      commit(job.item);
      weight -= job.weight;
      committed.push_back(std::move(in_order.front()));
      in_order.pop_front();
    }
  } catch (...) {
    stop();
    throw;
  }
  stop();
}

}  // namespace ridgeline::data
