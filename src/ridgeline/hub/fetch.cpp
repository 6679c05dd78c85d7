#include "ridgeline/hub/fetch.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/random.h"
#include "ridgeline/hub/access.h"
#include "ridgeline/hub/cache.h"
#include "ridgeline/hub/chunks.h"
#include "ridgeline/hub/partial_file.h"

namespace ridgeline::hub {
namespace {

namespace fs = std::filesystem;

constexpr int kMostPages = 10000;
constexpr const char* kWeightsIndex = "model.safetensors.index.json";

struct Listing {
  std::string commit;
  std::vector<RemoteFile> files;  // some hubs say names only: then without size and etag
  std::vector<DataFiles> data;
};

// Questions about one repository.
class HubRepository {
 public:
  HubRepository(const Environment& environment, const Repository& repository, Http& http)
      : environment_(environment), repository_(repository), http_(http) {}

  // A commit is taken as it is, and only its files are asked for; anything else is first looked up.
  Listing listing(const std::string& revision, bool with_card) {
    Listing result;
    if (is_commit(revision) && !with_card && tree(revision, result.files)) {
      result.commit = revision;
      return result;
    }
    RepositoryInfo info = this->info(revision);
    if (is_commit(revision) && info.commit != revision) {
      throw Error(fmt::format("{} answers commit {} when asked for {}", environment_.endpoint, info.commit, revision),
                  "Check HF_ENDPOINT.");
    }
    result.commit = info.commit;
    result.data = std::move(info.data);
    if (!tree(result.commit, result.files)) {
      for (std::string& path : info.paths) result.files.push_back({std::move(path), -1, {}});
    }
    return result;
  }

  // Size and etag of a file by its headers.
  void look_up(const std::string& commit, RemoteFile& file) {
    const auto head = [&](const std::string& url, bool leave) {
      Reply reply = http_.head(url, leave);
      if (!reply.failure.empty() || reply.status < 200 || reply.status >= 400)
        throw refusal(environment_, repository_, commit, file.path, reply);
      return reply;
    };
    const Reply reply = head(file_url(environment_.endpoint, repository_, commit, file.path), false);
    const std::string& linked = reply.header("x-linked-etag");
    file.etag = plain_etag(linked.empty() ? reply.header("etag") : linked);
    std::string size = reply.header("x-linked-size");
    const bool elsewhere = reply.status >= 300;
    if (size.empty()) size = (elsewhere ? head(reply.header("location"), true) : reply).header("content-length");
    file.size = whole_number(size).value_or(-1);
    if (file.size > kLargestFile) file.size = -1;
    if (file.etag.empty() || file.size < 0) {
      throw Error(fmt::format("{}: {} does not say its {}", file.path, environment_.endpoint,
                              file.etag.empty() ? "ETag" : "size"),
                  "Such a server cannot be fetched from: check HF_ENDPOINT, and proxies on the way.");
    }
  }

 private:
  RepositoryInfo info(const std::string& revision) {
    const std::string api = api_url(environment_.endpoint, repository_);
    std::string url = fmt::format("{}/revision/{}", api, percent_encoded(revision, false));
    Http::Text answer = http_.get(url);
    const auto code = answer.reply.header("x-error-code");
    if (answer.reply.status == 404 && code.empty() && revision == "main") answer = http_.get(url = api);
    if (good(answer.reply)) return parse_info(answer.body, url);
    Error error = refusal(environment_, repository_, revision, "its list of files", answer.reply);
    if (code != "RevisionNotFound") throw error;
    const std::vector<std::string> names = parse_refs(http_.get(api + "/refs", 1).body);
    const std::string guess = nearest(revision, names);
    if (names.empty()) throw error;
    throw Error(error.message(), guess.empty() ? fmt::format("It has {}.", fmt::join(names, ", "))
                                               : fmt::format("Did you mean {}?", guess));
  }

  // False where the hub does not answer such questions.
  bool tree(const std::string& commit, std::vector<RemoteFile>& files) {
    std::string url = fmt::format("{}/tree/{}?recursive=true", api_url(environment_.endpoint, repository_), commit);
    for (int page = 0; page < kMostPages; ++page) {
      const Http::Text answer = http_.get(url);
      const int64_t status = answer.reply.status;
      const bool unknown =
          (status == 404 && answer.reply.header("x-error-code").empty()) || status == 405 || status == 501;
      if (page == 0 && unknown && answer.reply.failure.empty()) return false;
      if (!good(answer.reply)) throw refusal(environment_, repository_, commit, "the list of its files", answer.reply);
      parse_tree(answer.body, without_query(url), files);
      const std::string next = next_page(answer.reply.header("link"));
      if (next.empty()) return require_distinct(files, url);
      url = Http::resolved(answer.reply.url, next);
      if (url.empty() || !http_.is_hub(url))
        throw Error(fmt::format("the list of files goes on at '{}', another server", next), "Check HF_ENDPOINT.");
    }
    throw Error(fmt::format("{}: the list of files has no end", without_query(url)), "Check HF_ENDPOINT.");
  }

  static bool require_distinct(const std::vector<RemoteFile>& files, const std::string& url) {
    std::set<std::string_view> seen;
    for (const RemoteFile& file : files) {
      if (!seen.insert(file.path).second)
        throw Error(fmt::format("{}: '{}' is listed twice", without_query(url), file.path), "Check HF_ENDPOINT.");
    }
    return true;
  }

  static bool good(const Reply& reply) { return reply.failure.empty() && reply.status >= 200 && reply.status < 300; }

  const Environment& environment_;
  const Repository& repository_;
  Http& http_;
};

std::string amount(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  return bytes >= 1'000'000'000 ? fmt::format("{:.2f} GB", value / 1e9) : fmt::format("{:.1f} MB", value / 1e6);
}

Selection select(const FetchRequest& request, const std::vector<std::string>& paths,
                 const std::vector<DataFiles>& card) {
  try {
    return request.repository.kind == RepositoryKind::model ? select_model(paths, request.wanted)
                                                            : select_dataset(paths, card, request.wanted);
  } catch (const Error& error) {
    throw Error(fmt::format("{} '{}': {}", word_for(request.repository.kind), request.repository.name, error.message()),
                error.next_step());
  }
}

FetchPlan plan_of(const FetchRequest& request, const Listing& listing) {
  std::map<std::string_view, const RemoteFile*> by_path;
  std::vector<std::string> paths;
  for (const RemoteFile& file : listing.files) {
    by_path[file.path] = &file;
    paths.push_back(file.path);
  }
  Selection selection = select(request, paths, listing.data);
  FetchPlan plan;
  plan.commit = listing.commit;
  for (const std::string& path : selection.paths) plan.files.push_back(*by_path.at(path));
  plan.left_out = std::move(selection.left_out);
  plan.notes = std::move(selection.notes);
  return plan;
}

// Counts what is there already, and checks that there is room for the rest.
void require_room(const fs::path& folder, const std::vector<Item>& items, FetchPlan& plan) {
  for (const Item& item : items) {
    if (item.file.size > std::numeric_limits<int64_t>::max() - plan.bytes)
      throw Error("the files together have more bytes than any disk", "Check HF_ENDPOINT, or choose with --include.");
    plan.bytes += item.file.size;
    plan.bytes_there += is_there(item) ? item.file.size : bytes_there(item.partial, item.file.size);
  }
  const int64_t needed = plan.bytes - plan.bytes_there;
  const int64_t free = free_bytes(folder);
  if (needed <= free) return;
  throw Error(fmt::format("{} are still to be fetched, and '{}' has room for {}", amount(needed), folder.string(),
                          amount(free)),
              "Free some space there, or choose another place: HF_HOME (the cache) or --out.");
}

// Whether all of a model is asked for, as the rules of selection.h have it.
bool is_whole_model(const FetchRequest& request) {
  return request.repository.kind == RepositoryKind::model && request.wanted.include.empty() &&
         request.wanted.exclude.empty();
}

// All pieces that an index of weights names must be among `files`; `place` says where a file lies.
void require_pieces(const FetchRequest& request, const std::vector<RemoteFile>& files,
                    const std::function<fs::path(const RemoteFile&)>& place) {
  const auto find = [&](const std::string& path) {
    return std::find_if(files.begin(), files.end(), [&](const RemoteFile& file) { return file.path == path; });
  };
  const auto index = find(kWeightsIndex);
  if (!is_whole_model(request) || index == files.end()) return;
  for (const std::string& piece : indexed_files(read_text(place(*index)), place(*index).string())) {
    if (find(piece) != files.end()) continue;
    throw Error(fmt::format("{} of '{}' names '{}', which is not there", kWeightsIndex, request.repository.name, piece),
                "The repository is not whole, or names its weights in a way of its own: see --include.");
  }
}

Error not_kept(const Environment& environment, const FetchRequest& request, const std::string& what) {
  return Error(
      fmt::format("HF_HUB_OFFLINE is set, and '{}' has {} {} '{}' at revision '{}'", environment.cache.string(), what,
                  word_for(request.repository.kind), request.repository.name, request.revision),
      "Fetch it without HF_HUB_OFFLINE, or set HF_HOME to where it was fetched.");
}

Cache cache_for(const Environment& environment, const FetchRequest& request) {
  if (environment.cache.empty())
    throw Error("neither HF_HOME nor HOME is set: there is no place for what is fetched",
                "Set HF_HOME to a folder with enough room, or give --out.");
  return {environment.cache, request.repository};
}

// Without a kept list, what is there counts as all; but not a model without weights.
fs::path from_cache(const Environment& environment, const FetchRequest& request, const FetchReport& report) {
  if (request.out)
    throw Error("--out: HF_HUB_OFFLINE is set, so that nothing can be fetched",
                "Without --out the folder in the cache is printed, if it was fetched before.");
  const Cache cache = cache_for(environment, request);
  const std::optional<std::string> commit = cache.commit_of(request.revision);
  if (!commit) throw not_kept(environment, request, "no");
  const std::vector<std::string> there = cache.paths_in(*commit);
  if (there.empty()) throw not_kept(environment, request, "no");
  Listing listing;
  listing.commit = *commit;
  const std::optional<std::vector<RemoteFile>> kept = cache.kept_tree(*commit);
  if (kept) listing.files = *kept;
  for (size_t i = 0; i < there.size() && !kept; ++i) listing.files.push_back({there[i], 0, {}});
  FetchRequest asked = request;
  // What they left out when it was fetched is not there to be matched.
  if (!kept)
    std::erase_if(asked.wanted.exclude, [&](const std::string& glob) {
      return std::none_of(there.begin(), there.end(), [&](const std::string& path) { return matches(glob, path); });
    });
  FetchPlan plan = plan_of(asked, listing);
  fs::path snapshot = cache.snapshot(plan.commit);
  for (RemoteFile& file : plan.files) {
    if (!std::binary_search(there.begin(), there.end(), file.path))
      throw not_kept(environment, request, fmt::format("no '{}' of", file.path));
    file.size = static_cast<int64_t>(fs::file_size(snapshot / file.path));
    plan.bytes += file.size;
  }
  if (is_whole_model(request) && !kept && std::none_of(there.begin(), there.end(), is_weights))
    throw not_kept(environment, request, "no weights (--include '*' takes what there is) of");
  plan.bytes_there = plan.bytes;
  require_pieces(request, plan.files, [&](const RemoteFile& file) { return snapshot / file.path; });
  report.plan(plan);
  return snapshot;
}

// Files of one content share a blob, and are fetched once.
std::vector<Item> cache_items(const Environment& environment, const FetchRequest& request, const Cache& cache,
                              const FetchPlan& plan) {
  std::vector<Item> items;
  std::set<std::string> etags;
  for (const RemoteFile& file : plan.files) {
    if (!etags.insert(file.etag).second) continue;
    const fs::path blob = cache.blob(file.etag);
    items.push_back({file, file_url(environment.endpoint, request.repository, plan.commit, file.path), blob,
                     blob.parent_path() / partial_name(file.etag), cache.lock(file.etag), file.etag});
  }
  return items;
}

// What is in a user's folder already is kept when it is the same file, and never replaced.
void require_same(const Item& item) {
  std::error_code code;
  if (!fs::exists(fs::symlink_status(item.target, code))) return;
  const RemoteFile& file = item.file;
  bool same = is_there(item);
  if (same && file.digest() != DigestKind::none)
    same = digest_of(File(item.target, File::Mode::read), file.size, file.digest()) == file.etag;
  if (same) return;
  throw Error(fmt::format("'{}' is there, and is not '{}' of this revision", item.target.string(), file.path),
              "Remove it, or choose another folder for --out.");
}

std::vector<Item> folder_items(const Environment& environment, const FetchRequest& request, const fs::path& staging,
                               const FetchPlan& plan) {
  std::vector<Item> items;
  for (const RemoteFile& file : plan.files) {
    const std::string name = fmt::format("{}.{:016x}", file.etag, hash_name(file.path));
    Item item{file,
              file_url(environment.endpoint, request.repository, plan.commit, file.path),
              *request.out / file.path,
              staging / partial_name(name),
              staging / (name + ".lock"),
              name};
    require_same(item);
    items.push_back(std::move(item));
  }
  return items;
}

// Parts that other hosts left of what is there now. A host that still writes one sees that the whole is there.
void remove_parts(const fs::path& folder, const std::vector<Item>& items) {
  std::set<std::string_view> whole;
  for (const Item& item : items) whole.insert(item.part_of);
  std::error_code ignored;
  for (const fs::path& part : parts_in(folder)) {
    if (whole.contains(whole_name(part.filename().native()))) fs::remove(part, ignored);
  }
}

fs::path into_folder(Http& http, const Environment& environment, const FetchRequest& request, FetchPlan& plan,
                     const FetchReport& report, const TransferReport& transfer_report) {
  const fs::path& out = *request.out;
  const fs::path staging = out / ".cache" / "huggingface" / "download";  // where huggingface_hub has its own
  const std::vector<Item> items = folder_items(environment, request, staging, plan);
  require_room(out, items, plan);
  report.plan(plan);
  transfer(http, items, request.transfer, transfer_report);
  remove_parts(staging, items);
  std::error_code ignored;
  for (const Item& item : items) fs::remove(item.lock, ignored);
  for (const fs::path& folder : {staging, staging.parent_path(), out / ".cache"}) fs::remove(folder, ignored);
  require_pieces(request, plan.files, [&](const RemoteFile& file) { return out / file.path; });
  return out;
}

fs::path into_cache(Http& http, const Environment& environment, const FetchRequest& request, FetchPlan& plan,
                    const FetchReport& report, const TransferReport& transfer_report) {
  const Cache cache = cache_for(environment, request);
  const std::vector<Item> items = cache_items(environment, request, cache, plan);
  require_room(cache.folder(), items, plan);
  report.plan(plan);
  transfer(http, items, request.transfer, transfer_report);
  require_pieces(request, plan.files, [&](const RemoteFile& file) { return cache.blob(file.etag); });
  remove_parts(cache.folder() / "blobs", items);
  cache.publish(plan.commit, request.revision, plan.files);
  return cache.snapshot(plan.commit);
}

}  // namespace

fs::path fetch(const Environment& environment, const FetchRequest& request, const FetchReport& report) {
  check_revision(request.revision);
  if (environment.offline) return from_cache(environment, request, report);
  Http http(environment, report.note);
  HubRepository hub(environment, request.repository, http);
  const bool dataset = request.repository.kind == RepositoryKind::dataset;
  Listing listing;
  const auto kept = is_commit(request.revision) && !dataset && !environment.cache.empty()
                        ? Cache(environment.cache, request.repository).kept_tree(request.revision)
                        : std::nullopt;
  if (kept) {
    listing = {request.revision, *kept, {}};
  } else {
    listing = hub.listing(request.revision, dataset);
  }
  FetchPlan plan = plan_of(request, listing);
  for (RemoteFile& file : plan.files) {
    if (file.size < 0) hub.look_up(plan.commit, file);
  }
  TransferReport transfer_report;
  transfer_report.progress = report.progress;
  transfer_report.note = report.note;
  transfer_report.refusal = [&](const std::string& path, const Reply& reply) {
    return refusal(environment, request.repository, plan.commit, path, reply);
  };
  const auto into = request.out ? into_folder : into_cache;
  return into(http, environment, request, plan, report, transfer_report);
}

}  // namespace ridgeline::hub
