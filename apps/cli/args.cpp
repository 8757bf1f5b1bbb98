#include "args.h"

#include <CLI/CLI.hpp>
#include <iostream>

namespace hlwq::cli {
namespace {

CLI::Option* in_group(CLI::Option* option, const std::string& group, const std::string& meta) {
  return option->group(group)->type_name(meta);
}

}  // namespace

void Args::positional(const std::string& name, std::string& target, const std::string& help) {
  app_.add_option(name, target, help)->required()->type_name("");
}

void Args::flag(const std::string& names, bool& target, const std::string& help) {
  app_.add_flag(names, target, help)->group(group_);
}

void Args::option(const std::string& names, std::string& target, const std::string& meta,
                  const std::string& help) {
  in_group(app_.add_option(names, target, help), group_, meta);
}

void Args::option(const std::string& names, std::optional<std::string>& target, const std::string& meta,
                  const std::string& help) {
  in_group(app_.add_option(names, target, help), group_, meta);
}

void Args::option(const std::string& names, std::optional<int64_t>& target, const std::string& meta,
                  const std::string& help) {
  in_group(app_.add_option(names, target, help), group_, meta);
}

void Args::option(const std::string& names, std::optional<float>& target, const std::string& meta,
                  const std::string& help) {
  in_group(app_.add_option(names, target, help), group_, meta);
}

void Args::optional(const std::string& names, std::optional<std::string>& target, const std::string& bare,
                    const std::string& meta, const std::string& help) {
  const auto store = [&target, bare](const CLI::results_t& values) {
    target = values.empty() || values[0].empty() ? bare : values[0];
    return true;
  };
  in_group(app_.add_option(names, store, help)->expected(0, 1), group_, meta);
}

void Args::option(const std::string& names, std::vector<std::string>& target, const std::string& meta,
                  const std::string& help) {
  // One value an occurrence, so that a value never swallows what follows it.
  in_group(
      app_.add_option(names, target, help)->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll),
      group_, meta);
}

void Args::number(const std::string& names, int64_t& target, int64_t min, const std::string& meta,
                  const std::string& help) {
  const auto check = [min](const std::string& text) {
    int64_t value = 0;
    if (!CLI::detail::lexical_cast(text, value) || value < min)
      return "'" + text + "' is not a whole number from " + std::to_string(min) + " up";
    return std::string();
  };
  in_group(app_.add_option(names, target, help)->check(CLI::Validator(check, "")), group_, meta);
}

void Args::choice(const std::string& names, std::string& target, const std::vector<std::string>& choices,
                  const std::string& help) {
  std::string meta;
  for (const std::string& c : choices) meta += (meta.empty() ? "" : "|") + c;
  const auto check = [choices, meta](const std::string& text) {
    for (const std::string& c : choices)
      if (c == text) return std::string();
    return "'" + text + "' is none of " + meta;
  };
  in_group(app_.add_option(names, target, help)->check(CLI::Validator(check, "")), group_, meta);
}

void Args::rest(std::vector<std::string>& target) {
  app_.set_help_flag();
  app_.prefix_command();
  CLI::App* app = &app_;
  app_.parse_complete_callback([app, &target] { target = app->remaining(); });
}

Command* parse_command_line(int argc, char** argv, const std::vector<std::unique_ptr<Command>>& commands,
                            int& exit_code) {
  CLI::App app("hlwq: quantises language models to HLWQ codes and runs them on the codes.", "hlwq");
  app.set_version_flag("--version", "hlwq " HLWQ_VERSION);
  app.require_subcommand(1);
  app.footer(
      "MODEL is a directory with config.json and safetensors, an HLWQ checkpoint, a .gguf file, or a "
      "Hugging\n"
      "Face repository, owner/name[@revision][/folder or file], which is downloaded when the cache lacks "
      "it.\n"
      "'hlwq COMMAND --help' shows a command's options and examples.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong use.");
  std::vector<CLI::App*> subs;
  for (const auto& command : commands) {
    CLI::App* sub = app.add_subcommand(command->name(), command->summary());
    sub->footer("Examples:\n" + command->examples());
    sub->get_formatter()->column_width(36);
    Args args(*sub);
    command->declare(args);
    subs.push_back(sub);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help and --version
    app.exit(e, std::cout, std::cerr);
    exit_code = kDone;
    return nullptr;
  } catch (const CLI::ParseError& e) {
    std::string where = "hlwq";
    for (CLI::App* sub : subs)
      if (sub->parsed() || sub->count() > 0) where += " " + sub->get_name();
    std::cerr << "hlwq: " << e.what() << " (see '" << where << " --help')\n";
    exit_code = kWrongUse;
    return nullptr;
  }
  for (size_t i = 0; i < subs.size(); ++i)
    if (subs[i]->parsed()) return commands[i].get();
  exit_code = kWrongUse;
  return nullptr;
}

}  // namespace hlwq::cli
