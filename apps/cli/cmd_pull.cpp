// hlwq pull: a repository into the shared Hugging Face cache.
#include "common.h"
#include "hub_args.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

class PullCommand : public Command {
 public:
  std::string name() const override { return "pull"; }
  std::string summary() const override { return "Download a model into the shared Hugging Face cache"; }
  std::string examples() const override {
    return "  hlwq pull HuggingFaceTB/SmolLM2-135M-Instruct\n"
           "  hlwq pull owner/name@v1.0 --no-weights             # to see with info whether it fits\n"
           "  hlwq pull owner/name-GGUF/name-Q4_K_M.gguf         # one file of several\n"
           "  HF_TOKEN=hf_... hlwq pull owner/private-model\n"
           "Every command takes owner/name[@revision][/folder or file] for MODEL, and downloads what the "
           "cache\n"
           "lacks; pull looks for a newer version too. Stopped at any moment, it goes on where it was.";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "owner/name[@branch, tag or commit][/folder or file]");
    args.flag("--all", all_, "Every file, not only what a model needs to run");
    args.option("--include", include_, "GLOB",
                "These files and no others, '*' also over '/'; may be repeated");
    args.flag("--no-weights", no_weights_, "Config, tokenizer and template only");
    args.number("--connections", connections_, 1, "N", "At a time, for a large file (default 8)");
    args.flag("--json", json_, "Print path, commit and files as JSON");
  }

  int run() override {
    const auto repository = usage([&] { return parse_repository(model_); });
    if (!repository)
      throw UsageError("'" + model_ + "' is no repository: want owner/name[@revision][/folder or file]");
    if (all_ + no_weights_ + !include_.empty() > 1)
      throw UsageError("pull takes one of --all, --include and --no-weights");
    const HubSettings settings = hub_environment();
    PullOptions options;
    options.files = all_ ? FileSet::kAll : no_weights_ ? FileSet::kNoWeights : FileSet::kModel;
    options.include = include_;
    options.connections = static_cast<int>(std::min<int64_t>(connections_, 64));
    ProgressLine line("downloading", ProgressLine::Unit::kBytes);
    Progress progress = line.progress();
    if (!progress_allowed()) progress.report = nullptr;
    const PullResult result = usage([&] { return pull(settings, *repository, options, progress); });
    line.clear();
    report(result);
    return kDone;
  }

 private:
  void report(const PullResult& result) const {
    if (json_) {
      OrderedJson files = OrderedJson::array();
      for (const PullResult::File& f : result.files)
        files.push_back({{"name", f.name}, {"bytes", f.size}, {"downloaded", f.fetched}});
      print_json({{"path", result.path.string()},
                  {"commit", result.commit},
                  {"bytes_received", result.received},
                  {"files", files}});
      return;
    }
    uint64_t bytes = 0;
    for (const PullResult::File& f : result.files) bytes += f.size;
    std::fprintf(stderr, "%zu files, %s (%s downloaded)\n", result.files.size(), format_bytes(bytes).c_str(),
                 format_bytes(result.received).c_str());
    show(result.path.string() + "\n");
  }

  std::string model_;
  std::vector<std::string> include_;
  bool all_ = false, no_weights_ = false, json_ = false;
  int64_t connections_ = 8;
};

}  // namespace

std::unique_ptr<Command> make_pull() { return std::make_unique<PullCommand>(); }

}  // namespace hlwq::cli
