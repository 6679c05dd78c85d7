#include "ridgeline/hub/environment.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::hub {
namespace {

namespace fs = std::filesystem;
using Get = std::function<std::optional<std::string>(const std::string&)>;

// Set to something: an empty variable counts as none.
std::string value_of(const Get& get, const std::string& name) {
  return get(name).value_or("");
}

// As Hugging Face's client reads its switches.
bool switched_on(const Get& get, const std::string& name) {
  std::string value = value_of(get, name);
  std::transform(value.begin(), value.end(), value.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

bool names_variable(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// "~/x" and "$NAME/x", as a shell and Python would write them out.
fs::path written_out(const Get& get, std::string text) {
  if (text == "~" || text.starts_with("~/")) text = value_of(get, "HOME") + text.substr(1);
  std::string result;
  for (size_t i = 0; i < text.size();) {
    const bool braces = text[i] == '$' && i + 1 < text.size() && text[i + 1] == '{';
    const size_t begin = i + (braces ? 2 : 1);
    size_t end = begin;
    while (text[i] == '$' && end < text.size() && names_variable(text[end])) ++end;
    const bool closed = !braces || (end < text.size() && text[end] == '}');
    const std::optional<std::string> value =
        end > begin && closed ? get(text.substr(begin, end - begin)) : std::nullopt;
    if (value) {
      result += *value;
      i = end + (braces ? 1 : 0);
    } else {
      result += text[i++];
    }
  }
  return result;
}

fs::path folder_of(const Get& get, const char* name, const fs::path& otherwise) {
  const std::string value = value_of(get, name);
  return value.empty() ? otherwise : written_out(get, value);
}

// `name` in `folder`; nothing in nothing.
fs::path inside(const fs::path& folder, const char* name) {
  return folder.empty() ? folder : folder / name;
}

// HF_HOME; empty where nothing says where that is.
fs::path home_of(const Get& get) {
  const fs::path user_cache = folder_of(get, "XDG_CACHE_HOME", inside(value_of(get, "HOME"), ".cache"));
  return folder_of(get, "HF_HOME", inside(user_cache, "huggingface"));
}

std::string endpoint_of(const Get& get, std::string otherwise) {
  std::string endpoint = value_of(get, "HF_ENDPOINT");
  if (endpoint.empty()) return otherwise;
  while (endpoint.ends_with('/')) endpoint.pop_back();
  const bool sound = endpoint.starts_with("https://") || endpoint.starts_with("http://");
  const bool plain = std::all_of(endpoint.begin(), endpoint.end(), [](char c) { return c > 0x20 && c < 0x7F; });
  if (!sound || !plain || endpoint.find_first_of("?#@") != std::string::npos) {
    throw Error(fmt::format("HF_ENDPOINT: '{}' is no address of a server", endpoint),
                "Give https://HOST or http://HOST:PORT, without user and question mark.");
  }
  return endpoint;
}

std::string trimmed(std::string text) {
  constexpr const char* kSpace = " \t\r\n";
  text.erase(0, std::min(text.find_first_not_of(kSpace), text.size()));
  text.erase(text.find_last_not_of(kSpace) + 1);
  return text;
}

void find_token(const Get& get, const fs::path& home, Environment& result) {
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}) {
    result.token = trimmed(value_of(get, name));
    result.token_source = name;
    if (!result.token.empty()) break;
  }
  const fs::path file = folder_of(get, "HF_TOKEN_PATH", inside(home, "token"));
  std::error_code ignored;
  if (result.token.empty() && fs::is_regular_file(file, ignored)) {
    result.token = trimmed(read_text(file));
    result.token_source = fmt::format("'{}'", file.string());
  }
  if (switched_on(get, "HF_HUB_DISABLE_IMPLICIT_TOKEN")) result.token.clear();
  if (result.token.empty()) result.token_source.clear();
  // It becomes a line of a request: what would begin another line must not be sent.
  if (std::any_of(result.token.begin(), result.token.end(), [](char c) { return c <= 0x20 || c >= 0x7F; })) {
    throw Error(fmt::format("the token of {} holds characters that no token has", result.token_source),
                "A token is one word, such as hf_…; copy it again from the hub's settings.");
  }
}

double stall_seconds_of(const Get& get, double otherwise) {
  const std::string value = value_of(get, "HF_HUB_DOWNLOAD_TIMEOUT");
  if (value.empty()) return otherwise;
  char* end = nullptr;
  const double seconds = std::strtod(value.c_str(), &end);
  if (*end != '\0' || !(seconds >= 1 && seconds <= 86400)) {
    throw Error(fmt::format("HF_HUB_DOWNLOAD_TIMEOUT: '{}' is no number of seconds from 1 to 86400", value),
                "Unset it for the default of 30.");
  }
  return seconds;
}

}  // namespace

Environment Environment::of(const Get& get) {
  Environment result;
  result.endpoint = endpoint_of(get, result.endpoint);
  const fs::path home = home_of(get);
  result.cache = folder_of(get, "HF_HUB_CACHE", folder_of(get, "HUGGINGFACE_HUB_CACHE", inside(home, "hub")));
  result.offline =
      switched_on(get, value_of(get, "HF_HUB_OFFLINE").empty() ? "TRANSFORMERS_OFFLINE" : "HF_HUB_OFFLINE");
  result.progress = !switched_on(get, "HF_HUB_DISABLE_PROGRESS_BARS");
  result.stall_seconds = stall_seconds_of(get, result.stall_seconds);
  for (const char* name : {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"}) {
    if (result.certificates.empty()) result.certificates = value_of(get, name);
  }
  find_token(get, home, result);
  return result;
}

Environment Environment::read() {
  return of([](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    if (value == nullptr && name == "HOME") {
      const passwd* const user = ::getpwuid(::getuid());
      value = user == nullptr ? nullptr : user->pw_dir;
    }
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  });
}

}  // namespace ridgeline::hub
