#include "ridgeline/hub/access.h"

#include <fmt/format.h>

namespace ridgeline::hub {
namespace {

std::string token_said(const Environment& environment) {
  return environment.token.empty() ? "no token was sent"
                                   : fmt::format("the token of {} was sent", environment.token_source);
}

// How to get in, for a user who has been sent away.
std::string way_in(const Environment& environment) {
  if (environment.token.empty()) {
    return fmt::format("Make a token ({}/settings/tokens) and set HF_TOKEN to it.", environment.endpoint);
  }
  return fmt::format("Check that the token of {} is valid and may read this repository.", environment.token_source);
}

Error not_reached(const Environment& environment, std::string_view what, const Reply& reply) {
  return Error(
      fmt::format("{}: {} cannot be had from {}", said(reply), what, without_query(reply.url)),
      fmt::format("Check the network, proxies (https_proxy), certificates ({}) and HF_ENDPOINT ({}); HF_HUB_OFFLINE=1 "
                  "uses what was fetched before.",
                  environment.certificates.empty() ? "SSL_CERT_FILE" : environment.certificates, environment.endpoint));
}

}  // namespace

Error refusal(const Environment& environment, const Repository& repository, std::string_view revision,
              std::string_view what, const Reply& reply) {
  const std::string& code = reply.header("x-error-code");
  const std::string& message = reply.header("x-error-message");
  const std::string reason = message.empty() ? said(reply) : fmt::format("{} ({})", said(reply), message);
  const std::string name = fmt::format("{} '{}'", word_for(repository.kind), repository.name);
  const std::string page = page_url(environment.endpoint, repository);
  if (reply.status < 400) return not_reached(environment, what, reply);
  if (code == "GatedRepo") {
    return Error(fmt::format("{} is gated: its owner decides who may read it ({})", name, token_said(environment)),
                 fmt::format("Ask for access at {}; {}", page,
                             environment.token.empty() ? "then set HF_TOKEN to a token of yours."
                                                       : "the token must be of the account that has it."));
  }
  if (code == "RevisionNotFound") {
    return Error(fmt::format("{} has no revision '{}'", name, revision),
                 fmt::format("Its branches and tags are at {}.", page));
  }
  if (code == "EntryNotFound") {
    return Error(fmt::format("{} has no '{}' at revision '{}'", name, what, revision), fmt::format("See {}.", page));
  }
  if (code == "RepoNotFound" || reply.status == 404) {
    return Error(
        fmt::format("there is no {} at {}, or it is private ({})", name, environment.endpoint, token_said(environment)),
        fmt::format("Check the name and whether it is a model or a dataset. {}", way_in(environment)));
  }
  if (reply.status == 401 || reply.status == 403) {
    return Error(fmt::format("{}: {} of {} is not given out ({})", reason, what, name, token_said(environment)),
                 fmt::format("Does {} ask for something? {}", page, way_in(environment)));
  }
  return Error(fmt::format("{} says: {}, when asked for {}", without_query(reply.url), reason, what),
               reply.status >= 500 || reply.status == 429 ? "Run the same command later: it goes on where it stopped."
                                                          : "Check HF_ENDPOINT.");
}

}  // namespace ridgeline::hub
