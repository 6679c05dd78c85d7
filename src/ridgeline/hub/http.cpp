#include "ridgeline/hub/http.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <exception>
#include <filesystem>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/hub/names.h"
#include "ridgeline/hub/retry.h"

namespace ridgeline::hub {
namespace {

constexpr int kMostRedirects = 8;
constexpr size_t kLargestText = size_t{256} << 20;
constexpr double kLongestPause = 600;  // seconds
constexpr long kSlowestBytes = 1000;   // a second, over the time after which a transfer has stalled
constexpr long kBufferBytes = 256 << 10;

using UrlParts = std::unique_ptr<CURLU, decltype(&curl_url_cleanup)>;

std::string part_of(const UrlParts& parts, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(parts.get(), part, &text, flags) != CURLUE_OK) return {};
  std::string result = text;
  curl_free(text);
  return result;
}

UrlParts parts_of(const std::string& url) {
  UrlParts parts(curl_url(), curl_url_cleanup);
  if (curl_url_set(parts.get(), CURLUPART_URL, url.c_str(), CURLU_DISALLOW_USER) != CURLUE_OK) parts.reset(curl_url());
  return parts;
}

// "https://host:443", in lower case; "" of what is no address.
std::string origin_of(const std::string& url) {
  const UrlParts parts = parts_of(url);
  std::string host = part_of(parts, CURLUPART_HOST);
  if (host.empty()) return {};
  std::transform(host.begin(), host.end(), host.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return fmt::format("{}://{}:{}", part_of(parts, CURLUPART_SCHEME), host,
                     part_of(parts, CURLUPART_PORT, CURLU_DEFAULT_PORT));
}

bool redirects(int64_t status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// What no other try mends.
bool is_hopeless(CURLcode code) {
  constexpr std::array kCodes = {CURLE_UNSUPPORTED_PROTOCOL,  CURLE_URL_MALFORMAT,   CURLE_PEER_FAILED_VERIFICATION,
                                 CURLE_SSL_CACERT_BADFILE,    CURLE_SSL_CERTPROBLEM, CURLE_SSL_ISSUER_ERROR,
                                 CURLE_SSL_INVALIDCERTSTATUS, CURLE_NOT_BUILT_IN};
  return std::find(kCodes.begin(), kCodes.end(), code) != kCodes.end();
}

std::string value_of_header(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  std::string value(text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1));
  std::replace_if(value.begin(), value.end(), is_control, '?');
  return value;
}

}  // namespace

struct Http::Shared {
  explicit Shared(const Environment& its) : environment(its), hub(origin_of(its.endpoint)) {}

  const Environment& environment;
  std::string hub;
  CURLM* multi = nullptr;
  std::vector<std::unique_ptr<Transfer>> transfers;
  std::exception_ptr thrown;  // by a callback: it must not pass through the library
};

// One request, on its way through as many answers as it is redirected.
class Http::Transfer {
 public:
  Transfer(Shared& shared, Request request) : shared_(shared), request_(std::move(request)), easy_(curl_easy_init()) {
    RL_REQUIRE(easy_ != nullptr, "libcurl does not start");
    reply_.url = request_.url;
    set_options();
    begin();
  }
  ~Transfer() {
    curl_multi_remove_handle(shared_.multi, easy_);
    curl_easy_cleanup(easy_);
    curl_slist_free_all(lines_);
  }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  CURL* handle() const { return easy_; }
  Request& request() { return request_; }
  const Reply& reply() const { return reply_; }

  // The transfer is over. Goes on to where it was redirected to, and says whether it does.
  bool goes_on(CURLcode code) {
    if (code == CURLE_OK && !next_.empty()) {
      reply_ = Reply{};
      reply_.url = std::exchange(next_, {});
      begin();
      return true;
    }
    if (code != CURLE_OK && reply_.failure.empty()) {
      reply_.failure = error_[0] != '\0' ? error_.data() : curl_easy_strerror(code);
      reply_.hopeless = is_hopeless(code);
    }
    return false;
  }

 private:
  void set_options() {
    const Environment& environment = shared_.environment;
    const auto stall = static_cast<long>(environment.stall_seconds);
    curl_easy_setopt(easy_, CURLOPT_PRIVATE, this);
    curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, error_.data());
    curl_easy_setopt(easy_, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy_, CURLOPT_USERAGENT, "ridgeline");
    curl_easy_setopt(easy_, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    curl_easy_setopt(easy_, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(easy_, CURLOPT_BUFFERSIZE, kBufferBytes);
    curl_easy_setopt(easy_, CURLOPT_CONNECTTIMEOUT, stall);
    curl_easy_setopt(easy_, CURLOPT_LOW_SPEED_LIMIT, kSlowestBytes);
    curl_easy_setopt(easy_, CURLOPT_LOW_SPEED_TIME, stall);
    if (const std::string& trusted = environment.certificates; !trusted.empty()) {
      std::error_code ignored;
      const bool folder = std::filesystem::is_directory(trusted, ignored);
      // The other of the two would still be the system's.
      const char* const none = nullptr;
      curl_easy_setopt(easy_, CURLOPT_CAINFO, folder ? none : trusted.c_str());
      curl_easy_setopt(easy_, CURLOPT_CAPATH, folder ? trusted.c_str() : none);
    }
    if (request_.head) curl_easy_setopt(easy_, CURLOPT_NOBODY, 1L);
    if (!request_.range.empty()) curl_easy_setopt(easy_, CURLOPT_RANGE, request_.range.c_str());
    curl_easy_setopt(easy_, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
    curl_easy_setopt(easy_, CURLOPT_HEADERDATA, this);
    curl_easy_setopt(easy_, CURLOPT_WRITEFUNCTION, &Transfer::on_body);
    curl_easy_setopt(easy_, CURLOPT_WRITEDATA, this);
  }

  // Asks reply_.url. Whether the token goes along is decided anew for every address.
  void begin() {
    curl_slist_free_all(std::exchange(lines_, nullptr));
    lines_ = curl_slist_append(nullptr, "Accept-Encoding: identity");
    const std::string& token = shared_.environment.token;
    if (!token.empty() && origin_of(reply_.url) == shared_.hub)
      lines_ = curl_slist_append(lines_, ("Authorization: Bearer " + token).c_str());
    curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, lines_);
    curl_easy_setopt(easy_, CURLOPT_URL, reply_.url.c_str());
    error_[0] = '\0';
    curl_multi_add_handle(shared_.multi, easy_);
  }

  static size_t on_header(char* text, size_t, size_t size, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    return transfer.guarded([&] { return transfer.take_header({text, size}); }) ? size : 0;
  }

  static size_t on_body(char* bytes, size_t, size_t size, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    if (!transfer.next_.empty() || !transfer.request_.on_body) return size;  // of an answer that nobody reads
    const bool more =
        transfer.guarded([&] { return transfer.request_.on_body(std::as_bytes(std::span<const char>(bytes, size))); });
    return more ? size : 0;
  }

  template <typename Work>
  bool guarded(const Work& work) {
    try {
      if (work()) return true;
      if (reply_.failure.empty()) reply_.failure = "ended by its receiver";
    } catch (...) {
      if (!shared_.thrown) shared_.thrown = std::current_exception();
    }
    return false;
  }

  bool take_header(std::string_view line) {
    if (line.starts_with("HTTP/")) {  // also after "100 Continue"
      reply_.headers.clear();
      return true;
    }
    if (line == "\r\n" || line == "\n") return end_of_headers();
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return true;
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    reply_.headers[std::move(name)] = value_of_header(line.substr(colon + 1));
    return true;
  }

  bool end_of_headers() {
    long status = 0;
    curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200) return true;
    reply_.status = status;
    if (redirects(status) && !reply_.header("location").empty()) {
      std::string target = Http::resolved(reply_.url, reply_.header("location"));
      if (target.empty() || ++redirected_ > kMostRedirects) {
        reply_.failure = target.empty() ? fmt::format("a redirect to '{}'", without_query(reply_.header("location")))
                                        : fmt::format("more than {} redirects", kMostRedirects);
        reply_.hopeless = true;
        return false;
      }
      if (request_.leave || origin_of(target) == shared_.hub) {
        next_ = std::move(target);
        return true;
      }
      reply_.headers["location"] = std::move(target);
    }
    return !request_.on_headers || request_.on_headers(reply_);
  }

  Shared& shared_;
  Request request_;
  Reply reply_;
  CURL* easy_;
  curl_slist* lines_ = nullptr;
  std::string next_;  // where the answer redirects to
  int redirected_ = 0;
  std::array<char, CURL_ERROR_SIZE> error_{};
};

const std::string& Reply::header(std::string_view name) const {
  static const std::string kNone;
  const auto found = headers.find(name);
  return found == headers.end() ? kNone : found->second;
}

Http::Http(const Environment& environment, Note note)
    : shared_(std::make_unique<Shared>(environment)), note_(std::move(note)) {
  static const CURLcode kStarted = curl_global_init(CURL_GLOBAL_DEFAULT);
  shared_->multi = curl_multi_init();
  RL_REQUIRE(kStarted == CURLE_OK && shared_->multi != nullptr, "libcurl does not start");
}

Http::~Http() {
  shared_->transfers.clear();
  curl_multi_cleanup(shared_->multi);
}

void Http::start(Request request) {
  shared_->transfers.push_back(std::make_unique<Transfer>(*shared_, std::move(request)));
}

size_t Http::running() const {
  return shared_->transfers.size();
}

void Http::poll(int milliseconds) {
  int active = 0;
  curl_multi_perform(shared_->multi, &active);
  if (active > 0) {
    curl_multi_poll(shared_->multi, nullptr, 0, milliseconds, nullptr);
    curl_multi_perform(shared_->multi, &active);
  } else if (shared_->transfers.empty()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  }
  if (shared_->thrown) std::rethrow_exception(std::exchange(shared_->thrown, nullptr));
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(shared_->multi, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    const CURLcode code = message->data.result;
    auto& transfers = shared_->transfers;
    const auto place = std::find_if(transfers.begin(), transfers.end(), [&](const std::unique_ptr<Transfer>& one) {
      return one->handle() == message->easy_handle;
    });
    RL_REQUIRE(place != transfers.end(), "libcurl ends a transfer that was not begun");
    curl_multi_remove_handle(shared_->multi, (*place)->handle());
    if ((*place)->goes_on(code)) continue;
    const std::unique_ptr<Transfer> ended = std::move(*place);
    transfers.erase(place);
    if (ended->request().on_end) ended->request().on_end(ended->reply());
  }
}

void Http::drop() {
  shared_->transfers.clear();
}

bool Http::is_hub(const std::string& url) const {
  return origin_of(url) == shared_->hub;
}

std::string Http::resolved(const std::string& base, const std::string& address) {
  const UrlParts parts = parts_of(base);
  const std::string before = part_of(parts, CURLUPART_SCHEME);
  if (curl_url_set(parts.get(), CURLUPART_URL, address.c_str(), CURLU_DISALLOW_USER | CURLU_URLENCODE) != CURLUE_OK)
    return {};
  const std::string scheme = part_of(parts, CURLUPART_SCHEME);
  if ((scheme != "https" && scheme != "http") || (before == "https" && scheme != "https")) return {};
  return part_of(parts, CURLUPART_URL);
}

Http::Text Http::ask(const Request& request, int tries) {
  for (int failures = 0;;) {
    Text result;
    bool ended = false;
    Request one = request;
    one.on_body = [&](std::span<const std::byte> bytes) {
      if (result.body.size() + bytes.size() > kLargestText) return false;
      result.body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return true;
    };
    one.on_end = [&](const Reply& reply) {
      result.reply = reply;
      ended = true;
    };
    start(std::move(one));
    while (!ended) poll(1000);
    const Reply& reply = result.reply;
    Next next = reply.hopeless          ? Next::give_up
                : reply.failure.empty() ? next_after(reply.status, is_hub(reply.url))
                                        : Next::again;
    if (next == Next::resolve_again && !is_hub(request.url)) next = Next::give_up;  // the hub was not asked
    if (next == Next::done || next == Next::give_up || ++failures >= tries) return result;
    const double pause = pause_for(reply, failures);
    if (note_) note_(fmt::format("{}: {}; tried again in {:.1f} s", without_query(reply.url), said(reply), pause));
    std::this_thread::sleep_for(std::chrono::duration<double>(pause));
  }
}

Http::Text Http::get(const std::string& url, int tries) {
  return ask(Request{.url = url}, tries);
}

Reply Http::head(const std::string& url, bool leave) {
  return ask(Request{.url = url, .head = true, .leave = leave}, kTries).reply;
}

double pause_for(const Reply& reply, int failures) {
  static thread_local std::minstd_rand random{std::random_device{}()};
  const double fraction = std::uniform_real_distribution<double>(0, 1)(random);
  std::optional<double> asked = retry_after(reply.header("retry-after"), std::time(nullptr));
  if (!asked && reply.status == 429) asked = limit_reset(reply.header("ratelimit"));
  if (!asked) return pause_after(failures, fraction);
  if (*asked > kLongestPause) {
    throw Error(
        fmt::format("{}: {}; it asks to come back in {:.0f} seconds", without_query(reply.url), said(reply), *asked),
        "Run the same command then: it goes on where it stopped.");
  }
  return *asked + fraction;
}

std::string without_query(const std::string& url) {
  return url.substr(0, url.find('?'));
}

std::string said(const Reply& reply) {
  if (reply.status < 400 && !reply.failure.empty()) return reply.failure;
  constexpr std::array<std::pair<int, std::string_view>, 12> kNames = {{{401, "Unauthorized"},
                                                                        {403, "Forbidden"},
                                                                        {404, "Not Found"},
                                                                        {408, "Request Timeout"},
                                                                        {410, "Gone"},
                                                                        {416, "Range Not Satisfiable"},
                                                                        {429, "Too Many Requests"},
                                                                        {451, "Unavailable For Legal Reasons"},
                                                                        {500, "Internal Server Error"},
                                                                        {502, "Bad Gateway"},
                                                                        {503, "Service Unavailable"},
                                                                        {504, "Gateway Timeout"}}};
  const auto name = std::find_if(kNames.begin(), kNames.end(), [&](auto& pair) { return pair.first == reply.status; });
  return name == kNames.end() ? fmt::format("answer {}", reply.status)
                              : fmt::format("{} {}", reply.status, name->second);
}

}  // namespace ridgeline::hub
