#include "ridgeline/cli/fetch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "ridgeline/cli/command.h"
#include "ridgeline/hub/fetch.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/observe/progress.h"

namespace ridgeline::cli {
namespace {

struct FetchOptions {
  std::string name;
  std::string out;
  hub::FetchRequest request;
};

// Everything but the path goes to standard error, so that `$(ridgeline fetch …)` is the path.
class FetchScreen {
 public:
  explicit FetchScreen(bool with_progress) : with_progress_(with_progress) {}

  void show_plan(const hub::FetchRequest& request, const hub::FetchPlan& plan) {
    say(fmt::format("{} {} at {} (commit {}): {}, {}", hub::word_for(request.repository.kind), request.repository.name,
                    request.revision, plan.commit.substr(0, 12),
                    observe::format_counted(std::ssize(plan.files), "file"),
                    observe::format_bytes(static_cast<double>(plan.bytes))));
    if (!plan.left_out.empty()) {
      constexpr size_t kMost = 6;
      const std::vector<std::string> first(
          plan.left_out.begin(), plan.left_out.begin() + static_cast<ptrdiff_t>(std::min(kMost, plan.left_out.size())));
      say(fmt::format("left out, as the same in another form or no part of the model: {}{}; --include takes patterns",
                      fmt::join(first, ", "),
                      plan.left_out.size() > kMost ? fmt::format(" and {} more", plan.left_out.size() - kMost) : ""));
    }
    for (const std::string& note : plan.notes) say("note: " + note);
    if (plan.bytes_there == plan.bytes) return say("all of it is there already");
    if (!with_progress_) return;
    observe::ProgressOptions look;
    look.label = "fetch";
    look.unit = "bytes";
    look.total = plan.bytes;
    look.start = plan.bytes_there;
    look.output = stderr;
    progress_ = std::make_unique<observe::Progress>(look);
  }
  void update(const hub::TransferProgress& now) {
    if (progress_) progress_->update(now.bytes_done);
  }
  void say(const std::string& line) {
    if (progress_) return progress_->print_line(line);
    fmt::print(stderr, "{}\n", line);
  }
  void finish() { progress_.reset(); }

 private:
  bool with_progress_;
  std::unique_ptr<observe::Progress> progress_;
};

void run_fetch(FetchOptions& options, hub::RepositoryKind kind) {
  hub::FetchRequest& request = options.request;
  request.repository = hub::repository(kind, options.name);
  if (!options.out.empty()) request.out = options.out;
  const hub::Environment environment = hub::Environment::read();
  FetchScreen screen(environment.progress);
  hub::FetchReport report;
  report.plan = [&](const hub::FetchPlan& plan) { screen.show_plan(request, plan); };
  report.progress = [&](const hub::TransferProgress& now) { screen.update(now); };
  report.note = [&](const std::string& line) { screen.say(line); };
  const std::filesystem::path folder = hub::fetch(environment, request, report);
  screen.finish();
  fmt::print("{}\n", folder.string());
}

void add_common(const Command& command, FetchOptions& options) {
  command.option("NAME", options.name, "The repository").required();
  command.option("--revision", options.request.revision, "A branch, a tag, or the 40 digits of a commit, which pins it")
      .placeholder("R");
  command.option("--out", options.out, "Folder for the files; otherwise the cache of Hugging Face's tools")
      .no_default()
      .placeholder("DIR");
  command
      .list("--include", options.request.wanted.include, "Only files whose path matches, such as '*.json' or 'onnx/'")
      .placeholder("GLOB");
  command.list("--exclude", options.request.wanted.exclude, "No files whose path matches").placeholder("GLOB");
  command.option("--connections", options.request.transfer.connections, Range{1, 64}, "Requests at a time")
      .placeholder("N");
}

constexpr const char* kPlaces =
    "The last line, alone on standard output, is the folder with the files. Stopped or killed, the same command goes "
    "on\n"
    "where it was; processes that want the same file fetch it once. Content is checked by its hash.\n\n"
    "HF_ENDPOINT (another server), HF_TOKEN or the file HF_HOME/token, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE,\n"
    "HF_HUB_DISABLE_PROGRESS_BARS, HF_HUB_DOWNLOAD_TIMEOUT and https_proxy mean what they mean to huggingface_hub.\n\n";

void add_fetch_model(const Command& parent) {
  const auto options = std::make_shared<FetchOptions>();
  const Command command = parent.subcommand("model", "A model with its tokenizer");
  command.footer(
      std::string(kPlaces) +
      "Of weights that lie there in several forms one is fetched: safetensors, else PyTorch's.\n\n"
      "Example:\n"
      "  ridgeline fetch model gpt2-xl --out models/gpt2-xl\n"
      "  ridgeline train --config FILE --set train.init_from=\"$(ridgeline fetch model gpt2)\" --out runs/tuned\n"
      "  ridgeline fetch model EleutherAI/gpt-j-6b --include '*.json' merges.txt");
  add_common(command, *options);
  command.action([options] { run_fetch(*options, hub::RepositoryKind::model); });
}

void add_fetch_dataset(const Command& parent) {
  const auto options = std::make_shared<FetchOptions>();
  const Command command = parent.subcommand("dataset", "Files of a dataset");
  command.footer(std::string(kPlaces) +
                 "Example:\n"
                 "  ridgeline fetch dataset oscar --config unshuffled_deduplicated_af --out data/oscar_af\n"
                 "  ridgeline fetch dataset oscar-corpus/OSCAR-2301 --config af");
  add_common(command, *options);
  command.option("--config", options->request.wanted.config, "Which of its configurations, as its page calls it")
      .no_default()
      .placeholder("C");
  command.option("--split", options->request.wanted.split, "Only this split: train, test, …")
      .no_default()
      .placeholder("S");
  command.action([options] { run_fetch(*options, hub::RepositoryKind::dataset); });
}

}  // namespace

void add_fetch(const Command& program) {
  const Command command =
      program.subcommand("fetch", "Get models, tokenizers and datasets from a Hugging Face-compatible hub");
  command.needs_subcommand();
  command.footer(
      "Examples:\n"
      "  ridgeline fetch model gpt2-xl --out models/gpt2-xl\n"
      "  ridgeline fetch dataset oscar --config unshuffled_deduplicated_af --out data/oscar_af");
  add_fetch_model(command);
  add_fetch_dataset(command);
}

}  // namespace ridgeline::cli
