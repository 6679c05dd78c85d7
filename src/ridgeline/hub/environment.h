// What the environment says about the hub, in the variables of Hugging Face's own client:
//   HF_ENDPOINT         another server                       (https://huggingface.co)
//   HF_TOKEN            what identifies the user; HUGGING_FACE_HUB_TOKEN is its old name. Else the file HF_TOKEN_PATH
//                       (HF_HOME/token), unless HF_HUB_DISABLE_IMPLICIT_TOKEN
//   HF_HOME             where everything is kept             (XDG_CACHE_HOME/huggingface, ~/.cache/huggingface)
//   HF_HUB_CACHE        where repositories are kept          (HF_HOME/hub)
//   HF_HUB_OFFLINE      no network: only what is kept
//   HF_HUB_DISABLE_PROGRESS_BARS
//   HF_HUB_DOWNLOAD_TIMEOUT   seconds without a byte after which a transfer has stalled
//   REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE   certificates to trust in place of the system's
// Proxies (https_proxy, no_proxy, …) are libcurl's business.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace ridgeline::hub {

struct Environment {
  std::string endpoint = "https://huggingface.co";  // without a slash at its end
  std::string token;                                // empty: none
  std::string token_source;                         // "HF_TOKEN", or the file in quotes
  std::filesystem::path cache;                      // empty: no variable says where
  bool offline = false;
  bool progress = true;  // is shown
  double stall_seconds = 30;
  std::string certificates;  // a file, or a folder as `openssl rehash` makes it; empty: the system's

  // Error that names the variable and what is wrong with its value. Without HOME, the home is what the system's list of
  // users says, as it is to Hugging Face's client.
  static Environment read();
  // The same, of variables that `get` knows (nothing: not set); files are read.
  static Environment of(const std::function<std::optional<std::string>(const std::string& name)>& get);
};

}  // namespace ridgeline::hub
