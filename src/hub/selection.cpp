#include "hub/selection.h"

#include <fnmatch.h>

#include <algorithm>
#include <array>

#include "base/json.h"

namespace hlwq {
namespace {

using Names = std::vector<std::string>;

constexpr std::array kPickles = {".bin", ".pt", ".pth", ".ckpt"};

std::string in_folder(const std::string& folder, const std::string& name) {
  return folder.empty() ? name : folder + "/" + name;
}

/// The part of `name` behind `folder`, nothing for files elsewhere or deeper.
std::optional<std::string> direct(const std::string& name, const std::string& folder) {
  if (!folder.empty() && !name.starts_with(folder + "/")) return std::nullopt;
  const std::string rest = folder.empty() ? name : name.substr(folder.size() + 1);
  if (rest.find('/') != rest.npos) return std::nullopt;
  return rest;
}

bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool side_file(const std::string& name) {
  for (const char* ending : {".json", ".jinja", ".model", ".tiktoken"})
    if (name.ends_with(ending)) return true;
  for (const char* whole : {"merges.txt", "vocab.txt", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"})
    if (name == whole) return true;
  return false;
}

Names with_ending(const Names& names, const std::string& folder, const std::string& ending) {
  Names found;
  for (const std::string& name : names)
    if (const auto rest = direct(name, folder); rest && rest->ends_with(ending)) found.push_back(name);
  return found;
}

std::string listed(const Names& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 12; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > 12 ? text + "..." : text;
}

/// "model-00001-of-00003.gguf": all three.
Names gguf_parts(const Names& names, const std::string& first) {
  const size_t of = first.rfind("-of-");
  if (of == first.npos || of < 6) return {first};
  const std::string begin = first.substr(0, of - 5), end = first.substr(of);
  Names parts;
  for (const std::string& name : names)
    if (name.size() == first.size() && name.starts_with(begin) && name.ends_with(end)) parts.push_back(name);
  return parts;
}

Names of_index(const Names& names, const std::string& folder, const std::string& index,
               const std::string& where) {
  const Json json = parse_json(index, where);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    throw Error(ErrorCode::kInvalidFile, where + " has no weight_map");
  Names files;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    const std::string name = file.is_string() ? in_folder(folder, file.get<std::string>()) : "";
    if (!contains(names, name))
      throw Error(ErrorCode::kInvalidFile,
                  where + " names the shard '" + name + "', which the repository does not have");
    if (!contains(files, name)) files.push_back(name);
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::string folder_of(const Names& names, const std::string& sub) {
  if (!contains(names, sub)) return sub;
  const size_t slash = sub.rfind('/');
  return slash == sub.npos ? "" : sub.substr(0, slash);
}

std::optional<std::string> index_name(const Names& names, const std::string& sub) {
  const std::string name = in_folder(folder_of(names, sub), "model.safetensors.index.json");
  return contains(names, name) ? std::optional(name) : std::nullopt;
}

Names side_file_names(const Names& names, const std::string& sub) {
  Names found;
  std::string folder = folder_of(names, sub);
  const auto add = [&](const std::string& from) {
    for (const std::string& name : names)
      if (const auto rest = direct(name, from); rest && side_file(*rest)) found.push_back(name);
  };
  add(folder);
  // A folder with nothing but weights, like the published PQ5/: its config is the root's.
  if (!folder.empty() && !contains(names, folder + "/config.json")) add("");
  return found;
}

Names weight_names(const Names& names, const std::string& sub, const std::optional<std::string>& index,
                   const std::string& repository) {
  const std::string folder = folder_of(names, sub);
  if (folder != sub) {  // a file
    if (sub.ends_with(".gguf")) return gguf_parts(names, sub);
    if (!sub.ends_with(".safetensors"))
      throw Error(ErrorCode::kInvalidArgument,
                  repository + " is no .gguf or .safetensors file; --include takes any name");
    return {sub};
  }
  if (!sub.empty() && std::none_of(names.begin(), names.end(),
                                   [&](const std::string& n) { return n.starts_with(sub + "/"); }))
    throw Error(ErrorCode::kNotFound, repository + ": the repository has no folder or file '" + sub + "'");
  if (index) return of_index(names, folder, *index, repository + ": model.safetensors.index.json");

  Names weights = with_ending(names, folder, ".safetensors");
  const std::string bf16 = "bf16.safetensors";
  if (!folder.empty() && contains(names, folder + "/codes.safetensors") &&
      !contains(names, folder + "/config.json")) {  // PQ5/codes.safetensors, and the rest at the root
    if (!contains(names, bf16))
      throw Error(ErrorCode::kNotFound,
                  repository + " has codes, but no bf16.safetensors with the other tensors");
    weights.push_back(bf16);
  }
  if (folder.empty() && weights == Names{bf16}) {
    Names choices;
    for (const std::string& name : names)
      if (name.ends_with("/codes.safetensors")) choices.push_back(name.substr(0, name.rfind('/')));
    if (choices.size() == 1) return {choices[0] + "/codes.safetensors", bf16};
    if (choices.size() > 1)
      throw Error(ErrorCode::kInvalidArgument, repository + " holds codes of several widths: choose " +
                                                   repository + "/" + choices[0] + " or another of " +
                                                   listed(choices));
  }
  if (weights.size() > 1 && contains(weights, in_folder(folder, "model.safetensors")))
    return {in_folder(folder, "model.safetensors")};  // others are the same in other clothes
  if (!weights.empty()) return weights;
  const Names ggufs = with_ending(names, folder, ".gguf");
  Names models;
  for (const std::string& name : ggufs)
    if (name.find("mmproj") == name.npos &&
        (name.find("-of-") == name.npos || name.find("-00001-of-") != name.npos))
      models.push_back(name);
  if (models.size() == 1) return gguf_parts(names, models[0]);
  if (models.size() > 1)
    throw Error(ErrorCode::kInvalidArgument,
                repository + " holds several .gguf files: choose one, as in " + repository + "/" +
                    models[0].substr(folder.empty() ? 0 : folder.size() + 1) + " (" + listed(models) + ")");
  for (const char* ending : kPickles)
    if (const Names pickles = with_ending(names, folder, ending); !pickles.empty())
      throw Error(ErrorCode::kUnsupported,
                  repository + " has its weights only as a pickle (" + pickles[0] +
                      "), which can run code when it is opened; take the model that it was made from, in "
                      "safetensors, and 'hlwq quantize' that");
  Names folders;
  for (const std::string& name : names)
    if (name.ends_with(".safetensors") || name.ends_with(".gguf")) folders.push_back(name);
  throw Error(ErrorCode::kNotFound, repository + " has no weights here" +
                                        (folders.empty() ? std::string("; --all downloads what it has")
                                                         : "; deeper are " + listed(folders)));
}

Names matching(const Names& names, const Names& patterns) {
  Names found;
  for (const std::string& name : names)
    for (const std::string& pattern : patterns)
      if (::fnmatch(pattern.c_str(), name.c_str(), 0) == 0) {
        found.push_back(name);
        break;
      }
  return found;
}

}  // namespace hlwq
