#include "ridgeline/comm/control.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>

namespace ridgeline::comm::detail {
namespace {

constexpr int kDeputy = 1;  // the root when host 0 is lost

// Worst first; among those that are busy the one that has been away for longest, since the others wait for it.
bool worse(const Suspect& left, const Suspect& right) {
  return std::tuple(left.standing, -left.idle_milliseconds, left.rank, left.host) <
         std::tuple(right.standing, -right.idle_milliseconds, right.rank, right.host);
}

// Whether what `host` says comes through `through`.
bool below(int host, int through) {
  while (host > through) host = parent_of(host);
  return host == through;
}

std::string described(const ControlName& name) {
  return fmt::format("host {} ({})", name.host, name.ranks);
}

FailureNotice host_notice(const ControlName& culprit, int source, const std::string& what) {
  return notice_of({.rank = culprit.only_rank,
                    .host = culprit.host,
                    .operation = {},
                    .what = what,
                    .next = "Look at that host and at the job's log; resume from the last checkpoint without it."},
                   source, 0);
}

std::string doing(const Suspect& suspect, const ControlName& host) {
  const std::string seen = suspect.position[0] == 0 ? "no operation yet" : suspect.position;
  switch (suspect.standing) {
    case Standing::stopped:
      return fmt::format("rank {} on host {} does not run: its process {} is stopped, last seen in {}", suspect.rank,
                         host.host, suspect.process, seen);
    case Standing::silent:
      return fmt::format("{} does not answer: its machine or its network is down", described(host));
    case Standing::not_running:
      return fmt::format("rank {} on host {} does not run (its machine is overloaded), last seen in {}", suspect.rank,
                         host.host, seen);
    case Standing::busy:
      return fmt::format("rank {} on host {} is still busy elsewhere, last seen in {}", suspect.rank, host.host, seen);
    case Standing::ended:
      return fmt::format("rank {} on host {} has ended", suspect.rank, host.host);
  }
  return {};
}

}  // namespace

int parent_of(int host) {
  return host == 0 ? -1 : (host - 1) / kControlArity;
}

std::string ranks_text(const std::vector<int>& ranks) {
  if (ranks.size() == 1) return fmt::format("rank {}", ranks.front());
  const bool run = !ranks.empty() && ranks.back() - ranks.front() + 1 == static_cast<int>(ranks.size());
  if (run) return fmt::format("ranks {}-{}", ranks.front(), ranks.back());
  constexpr size_t kNamed = 16;
  return fmt::format(
      "ranks {}{}",
      fmt::join(ranks.begin(), ranks.begin() + static_cast<int64_t>(std::min(ranks.size(), kNamed)), ", "),
      ranks.size() > kNamed ? ", …" : "");
}

Control::Control(int host, std::vector<ControlName> hosts, const ControlTimes& times, int64_t now)
    : host_(host), hosts_(std::move(hosts)), times_(times), parent_(parent_of(host)), ticked_(now), beaten_(now) {
  const auto count = static_cast<int>(hosts_.size());
  for (int child = kControlArity * host + 1; child <= kControlArity * (host + 1) && child < count; ++child) {
    links_[child] = {};
  }
  actions_.reach = parent_;
}

Control::Actions Control::take() {
  Actions actions = std::move(actions_);
  actions_ = {};
  return actions;
}

bool Control::linked_up() const {
  const auto found = links_.find(parent_);
  return found != links_.end() && found->second.open;
}

void Control::send(int peer, const ControlMessage& message) {
  actions_.send.push_back({peer, message});
}

void Control::send_down(const ControlMessage& message) {
  for (const auto& [peer, link] : links_) {
    if (link.open && peer != parent_) send(peer, message);
  }
}

void Control::connected(int peer, int64_t now) {
  Link& link = links_[peer];
  link.open = true;
  link.heard = now;
  send(peer, Alive{});
  if (peer == parent_ && first_ && !verdict_) send(peer, *first_);
}

void Control::received(int peer, const ControlMessage& message, int64_t now) {
  links_[peer].heard = now;
  std::visit([&](const auto& one) { on(peer, one, now); }, message);
}

void Control::on(int /*peer*/, const Hello& /*message*/, int64_t /*now*/) {}
void Control::on(int /*peer*/, const Alive& /*message*/, int64_t /*now*/) {}

// An orphan of the root comes to the deputy: it is the root for those that do.
void Control::on(int peer, const FailureNotice& message, int64_t now) {
  if (peer == parent_) return;
  if (verdict_) return send(peer, Verdict{*verdict_});
  arrive(message, now, host_ == kDeputy && parent_of(peer) == 0);
}

void Control::on(int /*peer*/, const Verdict& message, int64_t /*now*/) {
  if (!verdict_) decide(message.failure);
}

void Control::failed_here(const Failure& failure, int64_t now, int64_t wall) {
  if (verdict_ || own_) return;
  own_ = notice_of(failure, host_, wall);
  announce_at_ = now + times_.patience;
  arrive(*own_, now, false);
}

void Control::fail(const FailureNotice& notice, int64_t now) {
  if (verdict_ || own_) return;
  actions_.record = failure_of(notice);
  own_ = notice;
  announce_at_ = now + times_.patience;
  arrive(notice, now, false);
}

void Control::arrive(const FailureNotice& notice, int64_t now, bool decides) {
  if (root() || decides) {
    const bool other_death = first_ && first_->death != 0 && notice.death != 0;
    if (!first_ || (other_death && notice.when < first_->when) || (first_->death != 0 && notice.death == 0)) {
      if (!first_) decide_at_ = now + (notice.death != 0 ? times_.hold : 0);
      first_ = notice;
    }
    if (notice.death == 0 || now >= decide_at_) decide(*first_);
    return;
  }
  if (first_) {
    // The root weighs deaths by their time, so it must see the earlier one.
    if (first_->death == 0 || (notice.death != 0 && notice.when >= first_->when)) return;
  }
  first_ = notice;
  if (linked_up()) send(parent_, notice);
}

void Control::decide(const FailureNotice& notice) {
  if (verdict_) return;
  verdict_ = notice;
  actions_.record = failure_of(notice);
  for (const auto& [peer, link] : links_) {
    if (link.silent || (link.open && peer != parent_)) send(peer, Verdict{notice});
  }
  if (notice.source == host_) return announce();
  actions_.settled = true;
}

// That one neighbour answers no more may be its fault; that none does is rather this host's.
bool Control::cut_off() const {
  const auto is_open = [](const auto& link) { return link.second.open; };
  return lost_ && hosts_.size() > 2 && std::none_of(links_.begin(), links_.end(), is_open);
}

void Control::announce() {
  if (!announced_ && !cut_off()) actions_.announce = true;
  announced_ = true;
  actions_.settled = true;
}

void Control::lost(int peer, int64_t now) {
  const auto found = links_.find(peer);
  const bool was_open = found != links_.end() && found->second.open;
  const bool departed = found != links_.end() && found->second.departed;
  if (found != links_.end()) found->second.open = false;
  given_up_.insert(peer);
  if (ended() || (departed && peer != parent_)) return;
  const bool was_parent = peer == parent_;
  if (was_parent) orphaned(now);
  if (!was_open && !was_parent) return;
  const bool silent = found != links_.end() && found->second.silent;
  // Until it shows whether others can be reached; and whether the other neighbours, whose signs of life come at other
  // times, are silent too.
  if (!first_) return fail_for_loss(peer, was_parent ? times_.reach : silent ? 2 * times_.beat : 0, now);
  if (root() && !verdict_ && !lost_) {
    // A launcher that ends whole hosts leaves nobody there to announce it.
    if (below(first_->source, peer)) first_->source = host_;
    decide(*first_);
  }
  answer_when_complete(now);
}

void Control::fail_for_loss(int peer, int64_t after, int64_t now) {
  const ControlName& culprit = hosts_[static_cast<size_t>(peer)];
  const FailureNotice notice = host_notice(
      culprit, host_, fmt::format("{} does not answer: its machine or its network is down", described(culprit)));
  lost_ = true;
  if (hosts_.size() == 2) after = 0;  // there are no others
  if (!root() || after == 0) {
    fail(notice, now);
  } else {
    actions_.record = failure_of(notice);
    own_ = first_ = notice;
    decide_at_ = now + after;
  }
  announce_at_ = now + after + times_.patience;
}

// A new way up, for what is on its way there.
void Control::orphaned(int64_t /*now*/) {
  const int former = parent_;
  parent_ = parent_of(former);
  if (former == 0 && host_ != kDeputy) parent_ = kDeputy;
  if (parent_ >= 0 && given_up_.count(parent_) != 0) parent_ = -1;
  if (parent_ < 0) return;
  const auto found = links_.find(parent_);
  if (found == links_.end() || !found->second.open) {
    actions_.reach = parent_;
  } else if (first_) {
    send(parent_, *first_);
  }
}

void Control::tick(int64_t now) {
  const int64_t away = now - ticked_ > times_.beat ? now - ticked_ : 0;
  ticked_ = now;
  std::vector<int> silent;
  for (auto& [peer, link] : links_) {
    link.heard += away;
    if (link.open && now - link.heard > times_.silence) silent.push_back(peer);
  }
  for (const int peer : silent) {
    links_[peer].silent = true;
    lost(peer, now);
  }
  if (now - beaten_ >= times_.beat) {
    beaten_ = now;
    for (const auto& [peer, link] : links_) {
      if (link.open) send(peer, Alive{});
    }
  }
  if (verdict_) return;
  if (decide_at_ != 0 && now >= decide_at_) return decide(*first_);
  if (own_ && now >= announce_at_) announce();
  if (inquiring_ && now >= answer_at_) {
    for (auto& [peer, link] : links_) {
      if (!link.asked) continue;
      link.asked = false;
      add({.standing = Standing::silent,
           .rank = hosts_[static_cast<size_t>(peer)].only_rank,
           .host = peer,
           .process = 0,
           .idle_milliseconds = 0,
           .position = {}});
    }
    looked_ = true;
    answer_when_complete(now);
  }
}

void Control::stalled_here(const Stall& stall, int64_t now) {
  on(host_, stall, now);
}

// The first is enough: one inquiry looks at everybody.
void Control::on(int /*peer*/, const Stall& message, int64_t now) {
  if (stall_ || verdict_) return;
  stall_ = message;
  if (!root()) {
    if (linked_up()) send(parent_, message);
    return;
  }
  ask(inquiry_ + 1, times_.answer / 1'000'000, now);
}

void Control::on(int peer, const Inquiry& message, int64_t now) {
  if (peer == parent_ && !verdict_) ask(message.number, message.milliseconds, now);
}

void Control::ask(int number, int64_t milliseconds, int64_t now) {
  inquiry_ = number;
  inquiring_ = true;
  looked_ = false;
  suspects_.clear();
  answer_at_ = now + milliseconds * 1'000'000;
  const int64_t below = std::max<int64_t>(milliseconds - times_.answer_step / 1'000'000, 0);
  for (auto& [peer, link] : links_) {
    if (!link.open || peer == parent_) continue;
    link.asked = true;
    send(peer, Inquiry{number, static_cast<int32_t>(below)});
  }
  actions_.look = number;
}

void Control::add(const Suspect& suspect) {
  suspects_.insert(std::upper_bound(suspects_.begin(), suspects_.end(), suspect, worse), suspect);
  if (suspects_.size() > kSuspects) suspects_.pop_back();
}

void Control::looked(int number, const std::vector<Suspect>& suspects, int64_t now) {
  if (number != inquiry_ || !inquiring_) return;
  for (const Suspect& suspect : suspects) add(suspect);
  looked_ = true;
  answer_when_complete(now);
}

void Control::on(int peer, const Answer& message, int64_t now) {
  Link& link = links_[peer];
  if (message.number != inquiry_ || !inquiring_ || !link.asked) return;
  link.asked = false;
  for (int i = 0; i < message.count; ++i) add(message.suspects[i]);
  answer_when_complete(now);
}

void Control::answer_when_complete(int64_t now) {
  if (!inquiring_ || !looked_ || verdict_) return;
  for (const auto& [peer, link] : links_) {
    if (link.asked && link.open) return;
  }
  inquiring_ = false;
  if (root()) return fail(judge(), now);
  Answer answer{};
  answer.number = inquiry_;
  answer.count = static_cast<int32_t>(suspects_.size());
  std::copy(suspects_.begin(), suspects_.end(), answer.suspects);
  if (linked_up()) send(parent_, answer);
}

FailureNotice Control::judge() const {
  const Stall stall = stall_.value_or(Stall{});
  Failure failure{.rank = -1,
                  .host = hosts_[static_cast<size_t>(host_)].host,
                  .operation = stall.operation,
                  .what = stall.what,
                  .next = "Look at that rank's process or machine; raise the timeout if its work may take this long."};
  if (suspects_.empty()) {
    failure.what += "; every rank waits for another: they do not start the same operations in the same order";
    failure.next = "Every rank of a communicator must start the same operations.";
    return notice_of(failure, host_, 0);
  }
  const Suspect& worst = suspects_.front();
  const ControlName& host = hosts_[static_cast<size_t>(worst.host)];
  failure.rank = worst.rank;
  failure.host = host.host;
  failure.what += "; " + doing(worst, host);
  if (worst.position[0] != 0) failure.operation = worst.position;
  return notice_of(failure, host_, 0);
}

void Control::departed_here(int64_t /*now*/) {
  departed_here_ = true;
  depart_when_complete();
}

void Control::on(int peer, const Departed& /*message*/, int64_t /*now*/) {
  links_[peer].departed = true;
  depart_when_complete();
}

void Control::depart_when_complete() {
  if (!departed_here_ || departed_ || verdict_) return;
  for (const auto& [peer, link] : links_) {
    if (parent_of(peer) == host_ && !link.departed) return;
  }
  departed_ = true;
  if (!root()) {
    if (linked_up()) send(parent_, Departed{});
    return;
  }
  left_ = true;
  send_down(Leave{});
  actions_.leave = true;
}

void Control::on(int peer, const Leave& /*message*/, int64_t /*now*/) {
  if (peer != parent_ || left_) return;
  left_ = true;
  send_down(Leave{});
  actions_.leave = true;
}

}  // namespace ridgeline::comm::detail
