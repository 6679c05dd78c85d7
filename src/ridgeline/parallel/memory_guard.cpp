#include "ridgeline/parallel/memory_guard.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>

#include "ridgeline/base/error.h"

namespace ridgeline::parallel {
namespace {

constexpr int kPoison = 0xFF;  // NaN in every float format
// Scratch ends in packing buffers, whose last bytes are alignment and the edge tiles of sizes that do not divide.
constexpr int64_t kUnusedScratch = 24 * kPage;

std::mutex guards_mutex;
std::atomic<MemoryGuard*> guards{nullptr};
constexpr std::array kFaults = {SIGSEGV, SIGBUS};
std::array<struct sigaction, kFaults.size()> handlers_before;

std::byte* page_of(std::byte* address) {
  return reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(address) / kPage * kPage);
}

bool is_poison(std::byte byte) {
  return byte == static_cast<std::byte>(kPoison);
}

// What a signal handler may say.
class Words {
 public:
  Words& operator<<(std::string_view text) {
    const size_t count = std::min(text.size(), sizeof text_ - used_);
    std::memcpy(text_ + used_, text.data(), count);
    used_ += count;
    return *this;
  }
  Words& operator<<(int64_t number) {
    char digits[24];
    size_t first = sizeof digits;
    do {
      digits[--first] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number > 0);
    return *this << std::string_view(digits + first, sizeof digits - first);
  }
  void say() const { [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text_, used_); }

 private:
  char text_[1024];
  size_t used_ = 0;
};

}  // namespace

bool guard_requested() {
  const char* const wish = std::getenv("RIDGELINE_GUARD");
  if (wish == nullptr) return kGuardByDefault;
  const std::string_view text = wish;
  if (text == "1" || text == "0") return text == "1";
  throw Error(fmt::format("RIDGELINE_GUARD={}: neither 0 nor 1", text),
              "Set it to 1 to guard every buffer of a run, or unset it.");
}

MemoryGuard::MemoryGuard(const Inventory& inventory, const std::vector<Program>& programs, const Address& address,
                         int rank)
    : rank_(rank) {
  for (const Buffer& buffer : inventory.buffers) {
    if (buffer.space == Space::file) continue;
    std::byte* const begin = address(buffer);
    std::byte* const end = begin + buffer.bytes;
    RL_REQUIRE(page_of(end) == end, "'{}' does not end with a page", buffer.name);
    regions_.push_back({.pages = page_of(begin),
                        .begin = begin,
                        .end = end,
                        .program = buffer.program,
                        .first = buffer.first,
                        .last = buffer.last,
                        .open = buffer.kind == BufferKind::batch || buffer.kind == BufferKind::losses ||
                                buffer.kind == BufferKind::logits,
                        .scratch = buffer.kind == BufferKind::scratch,
                        .name = buffer.name});
  }
  for (const Program& program : programs) {
    std::vector<std::string>& names = operations_.emplace_back();
    for (const Op& op : program.ops) names.push_back(op.name());
  }
  for (const Region& region : regions_) {
    if (region.program >= 0) continue;
    poison_margin(region);
    protect(region.end, region.end + kPage, false);
  }
  watch();
}

// From now on a fault says what it was.
void MemoryGuard::watch() {
  const std::lock_guard lock(guards_mutex);
  next_ = guards.load();
  guards.store(this);
  if (next_ != nullptr) return;
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kFaults.size(); ++i) ::sigaction(kFaults[i], &action, &handlers_before[i]);
}

MemoryGuard::~MemoryGuard() {
  {
    const std::lock_guard lock(guards_mutex);
    if (guards.load() == this) {
      guards.store(next_);
    } else {
      MemoryGuard* before = guards.load();
      while (before->next_ != this) before = before->next_;
      before->next_.store(next_);
    }
    if (guards.load() == nullptr)
      for (size_t i = 0; i < kFaults.size(); ++i) ::sigaction(kFaults[i], &handlers_before[i], nullptr);
  }
  // Peers may still read what is left of a run that failed.
  for (const Region& region : regions_)
    ::mprotect(region.pages, static_cast<size_t>(region.end + kPage - region.pages), PROT_READ | PROT_WRITE);
}

void MemoryGuard::begin(int program) {
  program_.store(program);
  for (const Region& region : regions_) {
    if (region.program != program) continue;
    if (region.open) {
      poison_margin(region);
      protect(region.end, region.end + kPage, false);
    } else {
      protect(region.pages, region.end + kPage, false);
    }
  }
}

void MemoryGuard::enter(int position) {
  position_.store(position);
  for (const Region& region : regions_) {
    if (region.program != program_ || region.open || region.first != position) continue;
    protect(region.pages, region.end, true);
    std::memset(region.pages, kPoison, static_cast<size_t>(region.end - region.pages));
  }
}

void MemoryGuard::leave(int position) {
  for (const Region& region : regions_) {
    if (region.program != program_ || region.open || region.last != position) continue;
    check_margin(region);
    note_unused(region);
    protect(region.pages, region.end, false);
  }
}

void MemoryGuard::end() {
  for (const Region& region : regions_) {
    if (region.program < 0 || (region.open && region.program == program_)) check_margin(region);
    if (region.program == program_) protect(region.pages, region.end + kPage, true);
  }
  program_.store(-1);
  position_.store(-1);
}

void MemoryGuard::protect(std::byte* first, std::byte* last, bool usable) const {
  if (::mprotect(first, static_cast<size_t>(last - first), usable ? PROT_READ | PROT_WRITE : PROT_NONE) == 0) return;
  throw Error(system_error("RIDGELINE_GUARD: cannot protect memory", errno).message(),
              "Guard a smaller run, or raise the limit on mappings (sysctl vm.max_map_count).");
}

// What lies before a buffer on its first page.
void MemoryGuard::poison_margin(const Region& region) {
  std::memset(region.pages, kPoison, static_cast<size_t>(region.begin - region.pages));
}

void MemoryGuard::check_margin(const Region& region) const {
  const auto* const spoilt = std::find_if_not(region.pages, region.begin, is_poison);
  RL_REQUIRE(spoilt == region.begin, "guard: rank {}: something was written {} bytes before '{}'", rank_,
             region.begin - spoilt, region.name);
}

void MemoryGuard::note_unused(const Region& region) {
  const int64_t window = std::min<int64_t>(region.end - region.begin, region.scratch ? kUnusedScratch : kPage);
  if (std::all_of(region.end - window, region.end, is_poison) &&
      std::find(unused_.begin(), unused_.end(), region.name) == unused_.end())
    unused_.push_back(region.name);
}

void MemoryGuard::on_fault(int signal, siginfo_t* info, void* /*context*/) {
  const auto* const address = static_cast<const std::byte*>(info->si_addr);
  for (const MemoryGuard* guard = guards.load(); guard != nullptr; guard = guard->next_.load()) {
    if (guard->explain(address)) break;
  }
  // The same access again ends the process as it would have without a guard.
  for (size_t i = 0; i < kFaults.size(); ++i) {
    if (kFaults[i] == signal) ::sigaction(signal, &handlers_before[i], nullptr);
  }
}

bool MemoryGuard::explain(const std::byte* address) const {
  const int program = program_.load(), position = position_.load();
  for (const Region& region : regions_) {
    if (region.program >= 0 && region.program != program) continue;
    if (address < region.pages || address >= region.end + kPage) continue;
    Words words;
    words << "ridgeline: guard: rank " << rank_ << ", in ";
    if (program >= 0 && position >= 0) {
      words << operations_[static_cast<size_t>(program)][static_cast<size_t>(position)];
    } else {
      words << "no operation";
    }
    if (address >= region.end) {
      words << ": access " << address - region.end << " bytes past the end of '" << region.name << "' ("
            << region.end - region.begin << " bytes)\n";
    } else {
      words << ": access to '" << region.name << "', which is not alive\n";
    }
    words.say();
    return true;
  }
  return false;
}

}  // namespace ridgeline::parallel
