// Any text as a hub's answer: what is taken from it is safe to use as a path, a size and a name.
#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/hub/chunks.h"
#include "ridgeline/hub/http.h"
#include "ridgeline/hub/listing.h"
#include "ridgeline/hub/names.h"
#include "ridgeline/hub/retry.h"
#include "ridgeline/hub/selection.h"

using namespace ridgeline;

namespace {

template <typename Work>
void attempt(const Work& work) {
  try {
    work();
  } catch (const Error&) {
  }
}

void try_tree(const std::string& text) {
  std::vector<hub::RemoteFile> files;
  hub::parse_tree(text, "tree", files);
  for (const hub::RemoteFile& file : files) {
    RL_REQUIRE(hub::safe_path(file.path), "{}", file.path);
    RL_CHECK(file.size, >=, 0);
    RL_REQUIRE(file.digest() != hub::DigestKind::none, "{}", file.etag);
  }
}

void try_info(const std::string& text) {
  const hub::RepositoryInfo info = hub::parse_info(text, "info");
  RL_REQUIRE(hub::is_commit(info.commit), "{}", info.commit);
  for (const std::string& path : info.paths) RL_REQUIRE(hub::safe_path(path), "{}", path);
  hub::Wanted wanted;
  attempt([&] { hub::select_model(info.paths, wanted); });
  wanted.config = "unshuffled_deduplicated_af";
  attempt([&] { hub::select_dataset(info.paths, info.data, wanted); });
  wanted.split = "train";
  attempt([&] { hub::select_dataset(info.paths, info.data, wanted); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  attempt([&] { try_tree(text); });
  attempt([&] { try_info(text); });
  attempt([&] { hub::indexed_files(text, "index"); });
  for (const hub::RemoteFile& file : hub::parse_kept_tree(text).value_or(std::vector<hub::RemoteFile>()))
    RL_REQUIRE(hub::safe_path(file.path) && hub::safe_path(file.etag) && file.size >= 0, "{}", file.path);
  hub::parse_refs(text);
  hub::next_page(text);
  hub::Http::resolved("https://hub.example/a", text.substr(0, text.find('\0')));
  const std::string etag = hub::plain_etag(text);
  RL_REQUIRE(etag.empty() || hub::safe_path(etag), "{}", etag);
  if (const auto range = hub::content_range(text))
    RL_REQUIRE(0 <= range->first && range->first <= range->last, "{}", text);
  if (const auto pause = hub::retry_after(text.substr(0, 200), 1'700'000'000)) RL_CHECK(*pause, >=, 0.0);
  if (const auto pause = hub::limit_reset(text)) RL_CHECK(*pause, >=, 0.0);
  return 0;
}

std::vector<std::string> seeds() {
  const std::string sha1(40, 'a'), sha256(64, 'b');
  return {
      R"([{"type":"file","oid":")" + sha1 + R"(","size":5,"path":"a/b.txt"},{"type":"directory","path":"a"},)" +
          R"({"type":"file","oid":")" + sha1 + R"(","size":9,"path":"m","lfs":{"oid":")" + sha256 + R"(","size":7}}])",
      R"({"sha":")" + sha1 + R"(","siblings":[{"rfilename":"unshuffled/deduplicated/af/af.txt.gz"},)" +
          R"({"rfilename":"model.safetensors"}],"cardData":{"configs":[{"config_name":"unshuffled_deduplicated_af",)" +
          R"("data_files":[{"split":"train","path":["a/*","b"]}]}]}})",
      R"({"format_version":1,"files":{"a/b":{"size":5,"blob_id":")" + sha1 + R"("}}})",
      R"({"weight_map":{"a":"model-00001-of-00002.safetensors"}})",
      R"({"branches":[{"name":"main"}],"tags":[{"name":"v1"}]})",
      R"(<https://h/a?cursor=x>; rel="next")",
      "W/\"" + sha256 + "\"",
      "bytes 5-9/20",
      "Sun, 06 Nov 1994 08:49:37 GMT",
      R"("api";r=0;t=55)"};
}
