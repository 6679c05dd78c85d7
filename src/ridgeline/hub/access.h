// What a hub's refusal means for the user: which token was sent, and what to do.
#pragma once

#include <string>
#include <string_view>

#include "ridgeline/base/error.h"
#include "ridgeline/hub/environment.h"
#include "ridgeline/hub/http.h"
#include "ridgeline/hub/names.h"

namespace ridgeline::hub {

// The error for `reply` to a request for `what` ("the list of files", "config.json") of a repository at a revision: an
// answer that no other try mends, or a transfer that broke for the last time.
Error refusal(const Environment& environment, const Repository& repository, std::string_view revision,
              std::string_view what, const Reply& reply);

}  // namespace ridgeline::hub
