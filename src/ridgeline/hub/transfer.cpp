#include "ridgeline/hub/transfer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/hub/cache.h"
#include "ridgeline/hub/partial_file.h"
#include "ridgeline/hub/retry.h"

namespace ridgeline::hub {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kPollMilliseconds = 20;
constexpr auto kLockPause = std::chrono::milliseconds(300);
constexpr size_t kMostChecks = 4;          // at once, beside what is being fetched
constexpr int64_t kMostUnread = 64 << 10;  // of an answer that is no part of the file

Clock::duration seconds(double number) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(number));
}

// A place for one request at a time: a chunk's, or that for a whole file.
struct Lane {
  bool busy = false;
  int failures = 0;  // in a row, without a byte
  Clock::time_point not_before;
};

enum class State { waiting, fetching, checking, done };

struct Job {
  Item item;
  State state = State::waiting;
  std::optional<BlobLock> lock;
  std::unique_ptr<PartialFile> partial;
  std::vector<Lane> lanes;  // of the chunks
  Lane whole_lane;
  bool whole = false;  // the server does not answer ranges: all from the beginning, what is there is passed over
  size_t running = 0;
  std::string location;  // where the hub said that the content is; empty: ask it
  bool spoiled = false;  // it was whole once, and not what its hash says
  std::future<std::string> check;
  Clock::time_point not_before;
};

// One request of a job.
struct Stream {
  Job* job = nullptr;
  Lane* lane = nullptr;
  int64_t begin = 0, at = 0, end = 0;  // bytes of the file
  bool ranged = false;
  bool used_location = false;
  bool good = false;        // the answer is a part of the file
  bool superseded = false;  // another request brings all of the file
  int64_t unread = 0;
  std::string fault;  // what is wrong with the answer
};

class TransferEngine {
 public:
  TransferEngine(Http& http, std::vector<Item> items, const TransferSettings& settings, const TransferReport& report)
      : http_(http), settings_(settings), report_(report), jobs_(items.size()) {
    for (size_t i = 0; i < items.size(); ++i) jobs_[i].item = std::move(items[i]);
  }
  ~TransferEngine() { http_.drop(); }  // its callbacks point here
  TransferEngine(const TransferEngine&) = delete;
  TransferEngine& operator=(const TransferEngine&) = delete;

  void run() {
    while (progress_.files_done < static_cast<int64_t>(jobs_.size())) {
      admit();
      start_requests();
      http_.poll(kPollMilliseconds);
      for (Job& job : jobs_) finish_check(job);
      report_.progress(progress_);
    }
  }

 private:
  size_t count(State state) const {
    return static_cast<size_t>(
        std::count_if(jobs_.begin(), jobs_.end(), [&](auto& job) { return job.state == state; }));
  }

  void finish(Job& job) {
    job.partial.reset();
    job.lock.reset();
    job.state = State::done;
    ++progress_.files_done;
  }

  // Lets waiting files in, as long as there are connections for them.
  void admit() {
    size_t fetching = count(State::fetching);
    size_t checking = count(State::checking);
    const auto room = static_cast<size_t>(settings_.connections);
    for (Job& job : jobs_) {
      if (fetching >= room || checking >= kMostChecks) return;
      if (job.state != State::waiting || Clock::now() < job.not_before) continue;
      open(job);
      fetching += job.state == State::fetching ? 1 : 0;
      checking += job.state == State::checking ? 1 : 0;
    }
  }

  void open(Job& job) {
    const Item& item = job.item;
    if (!is_there(item)) {
      job.lock = BlobLock::take(item.lock);
      if (!job.lock) {
        if (!std::exchange(said_waits_, true))
          report_.note(fmt::format("{}: another process is fetching it; waiting for that", item.file.path));
        job.not_before = Clock::now() + kLockPause;
        return;
      }
      if (!job.lock->held()) {
        if (!std::exchange(said_no_locks_, true))
          report_.note("this file system has no locks: another process may fetch the same files");
        job.item.partial += fmt::format(".{}", ::getpid());
      }
    }
    if (is_there(item)) {  // perhaps since the lock is ours
      progress_.bytes_done += item.file.size;
      return finish(job);
    }
    make_folder(item.target.parent_path());
    make_folder(item.partial.parent_path());
    if (item.file.digest() != DigestKind::none) {
      if (const int64_t copied = copy_part_of_another_host(item.partial, item.part_of, item.file.size); copied > 0)
        report_.note(fmt::format("{}: goes on with {} bytes that another host left", item.file.path, copied));
    }
    job.partial = std::make_unique<PartialFile>(item.partial, item.file.size,
                                                chunk_bytes_for(item.file.size, settings_.connections));
    job.lanes.resize(job.partial->chunks().count());
    progress_.bytes_done += job.partial->chunks().bytes_there();
    job.state = State::fetching;
    if (job.partial->chunks().full()) begin_check(job);
  }

  void start_requests() {
    const Clock::time_point now = Clock::now();
    const auto room = static_cast<size_t>(settings_.connections);
    const auto ready = [&](const Lane& lane) { return !lane.busy && now >= lane.not_before; };
    if (now < hold_until_) return;
    for (Job& job : jobs_) {
      if (job.state != State::fetching) continue;
      if (job.whole) {
        if (http_.running() < room && ready(job.whole_lane)) ask(job, job.whole_lane, 0, job.item.file.size);
        continue;
      }
      const Chunks& chunks = job.partial->chunks();
      for (size_t chunk = 0; chunk < chunks.count() && http_.running() < room; ++chunk) {
        if (!chunks.full(chunk) && ready(job.lanes[chunk]))
          ask(job, job.lanes[chunk], chunks.next(chunk), chunks.end(chunk));
      }
    }
  }

  void ask(Job& job, Lane& lane, int64_t begin, int64_t end) {
    auto stream = std::make_shared<Stream>();
    stream->job = &job;
    stream->lane = &lane;
    stream->begin = stream->at = begin;
    stream->end = end;
    stream->ranged = begin > 0 || end < job.item.file.size;
    stream->used_location = !job.location.empty();
    Request request;
    request.url = stream->used_location ? job.location : job.item.url;
    if (stream->ranged) request.range = fmt::format("{}-{}", begin, end - 1);
    request.on_headers = [this, stream](const Reply& reply) { return accept(*stream, reply); };
    request.on_body = [this, stream](std::span<const std::byte> bytes) { return take(*stream, bytes); };
    request.on_end = [this, stream](const Reply& reply) { end_of(*stream, reply); };
    lane.busy = true;
    ++job.running;
    http_.start(std::move(request));
  }

  // Whether an answer's headers are those of what was asked for.
  bool accept(Stream& stream, const Reply& reply) {
    if (reply.status < 200 || reply.status >= 300) return true;  // its end says what that means
    Job& job = *stream.job;
    if (reply.status == 200) {
      if (stream.ranged && !take_all(stream)) return false;
      check_length(stream, reply, job.item.file.size);
    } else if (reply.status == 206 && stream.ranged) {
      check_range(stream, reply);
    } else {
      stream.fault = fmt::format("an answer with status {} to a request for a file", reply.status);
    }
    const std::string& encoding = reply.header("content-encoding");
    if (!encoding.empty() && encoding != "identity") stream.fault = fmt::format("the answer is packed ({})", encoding);
    stream.good = stream.fault.empty();
    if (stream.good && reply.url != job.item.url && !http_.is_hub(reply.url)) job.location = reply.url;
    return stream.good;
  }

  // The server sends all of the file where a range was asked for: one request reads on, the others end.
  static bool take_all(Stream& stream) {
    Job& job = *stream.job;
    job.whole = true;
    if (job.whole_lane.busy) {
      stream.superseded = true;
      return false;
    }
    stream.lane->busy = false;
    stream.lane = &job.whole_lane;
    stream.lane->busy = true;
    stream.ranged = false;
    stream.begin = stream.at = 0;
    stream.end = job.item.file.size;
    return true;
  }

  static void check_length(Stream& stream, const Reply& reply, int64_t expected) {
    const std::string& length = reply.header("content-length");
    if (length.empty() || whole_number(length) == expected) return;
    stream.fault = fmt::format("{} bytes are announced where there are to be {}", length, expected);
  }

  static void check_range(Stream& stream, const Reply& reply) {
    const std::string& header = reply.header("content-range");
    const std::optional<ContentRange> range = content_range(header);
    const int64_t size = stream.job->item.file.size;
    if (!range || range->first != stream.begin || range->last >= stream.end ||
        (range->total >= 0 && range->total != size)) {
      stream.fault = fmt::format("bytes {}-{} of {} were asked for, and '{}' is answered", stream.begin, stream.end - 1,
                                 size, header);
      return;
    }
    check_length(stream, reply, range->last + 1 - range->first);
  }

  bool take(Stream& stream, std::span<const std::byte> bytes) {
    const auto size = static_cast<int64_t>(bytes.size());
    if (!stream.good) {
      stream.unread += size;
      return stream.unread <= kMostUnread;
    }
    if (stream.at + size > stream.end) {
      stream.fault = fmt::format("more than the {} bytes come that were asked for", stream.end - stream.begin);
      return false;
    }
    const int64_t fresh = stream.job->partial->write(stream.at, bytes);
    stream.at += size;
    progress_.bytes_done += fresh;
    if (fresh > 0) stream.lane->failures = 0;
    return true;
  }

  void end_of(Stream& stream, const Reply& reply) {
    Job& job = *stream.job;
    stream.lane->busy = false;
    --job.running;
    const bool whole = stream.good && stream.at == stream.end;
    if (!whole && !stream.superseded && !job.partial->chunks().full()) failed(stream, reply);
    if (job.partial->chunks().full() && job.running == 0) begin_check(job);
  }

  void failed(Stream& stream, const Reply& reply) {
    Job& job = *stream.job;
    Lane& lane = *stream.lane;
    const std::string& path = job.item.file.path;
    std::string what = !stream.fault.empty() ? stream.fault : said(reply);
    Next next = reply.hopeless ? Next::give_up : Next::again;
    if (!stream.fault.empty()) {
      next = Next::again;
    } else if (stream.good && reply.failure.empty()) {
      what = fmt::format("the answer ends after {} of {} bytes", stream.at - stream.begin, stream.end - stream.begin);
    } else if (reply.status >= 400) {
      next = next_after(reply.status, http_.is_hub(reply.url));
    }
    if (next == Next::give_up) throw report_.refusal(path, reply);
    job.location.clear();
    ++lane.failures;
    // An address that the hub gave some time ago may be over: that is no failure of anyone.
    if (next == Next::resolve_again && stream.used_location && lane.failures == 1) return;
    if (lane.failures >= settings_.tries) {
      throw Error(fmt::format("{}: {} ({} tries in a row without a byte, at {})", path, what, lane.failures,
                              without_query(reply.url)),
                  "Run the same command again: it goes on from what is there.");
    }
    const double pause = pause_for(reply, lane.failures);
    lane.not_before = Clock::now() + seconds(pause);
    if (reply.status == 429) hold_until_ = std::max(hold_until_, lane.not_before);
    report_.note(fmt::format("{}: {}; tried again in {:.1f} s", path, what, pause));
  }

  static void begin_check(Job& job) {
    job.state = State::checking;
    job.check = std::async(std::launch::async, [&partial = *job.partial, kind = job.item.file.digest()] {
      const int64_t size = partial.chunks().size();
      partial.finish();
      std::string hash = kind == DigestKind::none ? std::string() : digest_of(partial.file(), size, kind);
      partial.file().sync();
      return hash;
    });
  }

  void finish_check(Job& job) {
    if (job.state != State::checking || job.check.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
      return;
    const std::string hash = job.check.get();
    const Item& item = job.item;
    const bool checked = item.file.digest() != DigestKind::none;
    if (checked && hash != item.file.etag) return spoil(job, hash);
    if (!checked && !std::exchange(said_no_hash_, true))
      report_.note(fmt::format("{}: the server says no hash of it, only its size could be checked", item.file.path));
    // Another host, whose locks this one does not see, may have been first.
    std::error_code ignored;
    if (fs::exists(item.partial, ignored) || !is_there(item)) rename_durably(item.partial, item.target);
    finish(job);
  }

  // A cache on the way, or a machine that lost its power after the bytes were recorded: once all is fetched anew.
  void spoil(Job& job, const std::string& hash) {
    const RemoteFile& file = job.item.file;
    const std::string what =
        fmt::format("{}: {} is {}, not {}", file.path, file.digest() == DigestKind::sha256 ? "SHA-256" : "git's hash",
                    hash, file.etag);
    if (job.spoiled) {
      job.partial.reset();
      std::error_code ignored;
      fs::remove(job.item.partial, ignored);
      throw Error(what + ", twice",
                  "What the server sends is not what the hub lists: try later, or another HF_ENDPOINT.");
    }
    job.spoiled = true;
    report_.note(what + "; fetched anew");
    progress_.bytes_done -= file.size;
    job.partial->restart(chunk_bytes_for(file.size, settings_.connections));
    job.lanes.assign(job.partial->chunks().count(), Lane{});
    job.whole_lane = Lane{};
    job.whole = false;
    job.location.clear();
    job.state = State::fetching;
    if (job.partial->chunks().full()) begin_check(job);  // a file without bytes: no request will end
  }

  Http& http_;
  const TransferSettings& settings_;
  const TransferReport& report_;
  std::vector<Job> jobs_;
  TransferProgress progress_;
  Clock::time_point hold_until_;  // the server asked for a pause
  bool said_waits_ = false;       // each of these once, for all files
  bool said_no_locks_ = false;
  bool said_no_hash_ = false;
};

}  // namespace

bool is_there(const Item& item) {
  std::error_code code;
  return fs::is_regular_file(item.target, code) &&
         static_cast<int64_t>(fs::file_size(item.target, code)) == item.file.size && !code;
}

void transfer(Http& http, std::vector<Item> items, const TransferSettings& settings, const TransferReport& report) {
  TransferEngine(http, std::move(items), settings, report).run();
}

}  // namespace ridgeline::hub
