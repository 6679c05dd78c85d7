// Requests to a hub and to the hosts that it names, many at a time on one thread (libcurl). HTTP 1.1, so that every
// request in flight has a connection of its own; certificates are verified; proxies are those of the environment.
//
// The token goes to the hub's own origin (scheme, host and port of its endpoint) and to nobody else, whatever
// redirects.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "ridgeline/hub/environment.h"

namespace ridgeline::hub {

struct Reply {
  int64_t status = 0;  // 0: no answer
  std::string url;     // whose answer it is: the last one that was redirected to
  // Names in lower case; of equal ones the last. Messages show them: control characters, which would speak to the
  // user's terminal, are '?'.
  std::map<std::string, std::string, std::less<>> headers;
  std::string failure;    // what broke the transfer; empty where it went as the answer said it would
  bool hopeless = false;  // a failure that no other try mends: a certificate, an address that is none

  // "" where there is none.
  const std::string& header(std::string_view name) const;
};

struct Request {
  std::string url;
  bool head = false;  // ask for the headers alone
  std::string range;  // "first-last"; empty: all
  bool leave = true;  // follow redirects to other origins, too; else such an answer (its "location" whole) is the last
  // Called as the answer comes in; false ends the transfer. Answers that are followed elsewhere are not shown.
  std::function<bool(const Reply&)> on_headers = {};
  std::function<bool(std::span<const std::byte>)> on_body = {};
  // Always called, last. It may start requests.
  std::function<void(const Reply&)> on_end = {};
};

class Http {
 public:
  using Note = std::function<void(const std::string&)>;
  // `environment` must outlive it. `note`, if any, hears why get() and head() wait.
  explicit Http(const Environment& environment, Note note = {});
  ~Http();
  Http(const Http&) = delete;
  Http& operator=(const Http&) = delete;

  void start(Request request);
  // Moves bytes and calls back, for at most about so long. What a callback throws leaves here.
  void poll(int milliseconds);
  size_t running() const;
  // Ends all requests; nobody is called back.
  void drop();

  // Whether an address has the origin of the hub's endpoint.
  bool is_hub(const std::string& url) const;
  // `address`, which may be relative, as seen from `base`; "" where that is no http or https address, or where it would
  // leave https for http.
  static std::string resolved(const std::string& base, const std::string& address);

  static constexpr int kTries = 5;
  struct Text {
    Reply reply;
    std::string body;
  };
  // A small answer (to 256 MiB) to GET or HEAD (`leave`: as in Request), with up to `tries` tries as next_after() says;
  // the last answer, whatever it is.
  Text get(const std::string& url, int tries = kTries);
  Reply head(const std::string& url, bool leave);

 private:
  class Transfer;
  struct Shared;
  Text ask(const Request& request, int tries);
  std::unique_ptr<Shared> shared_;
  Note note_;
};

// How long to wait after `reply`: what it asks for (Retry-After, RateLimit), else pause_after(failures, …). Error when
// it asks for more than ten minutes.
double pause_for(const Reply& reply, int failures);

// An address as messages show it: without what follows '?', where signed ones have their signature.
std::string without_query(const std::string& url);

// The reply in words for errors and notes: "503 Service Unavailable", "Recv failure: Connection reset by peer".
std::string said(const Reply& reply);

}  // namespace ridgeline::hub
