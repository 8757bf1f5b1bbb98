// Which of a repository's files a model needs.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace hlwq {

/// How much of a repository is wanted.
enum class FileSet {
  kModel,      ///< weights, config, tokenizer, template, processors
  kNoWeights,  ///< the same without the weights
  kAll,
};

/// Everything but weights that a model in folder `sub` ("" for the root) needs.
std::vector<std::string> side_file_names(const std::vector<std::string>& names, const std::string& sub);

/// The weights of the model at `sub`, a folder or a file. `index` is the text of its
/// model.safetensors.index.json, where there is one. Throws Error(kNotFound) when there are none,
/// kUnsupported for pickles alone, kInvalidArgument when several could be meant, saying which.
std::vector<std::string> weight_names(const std::vector<std::string>& names, const std::string& sub,
                                      const std::optional<std::string>& index, const std::string& repository);

/// Where the safetensors index of `sub` is, if the repository has one.
std::optional<std::string> index_name(const std::vector<std::string>& names, const std::string& sub);

/// The folder in which `sub` lies: itself, or for a file the one that holds it.
std::string folder_of(const std::vector<std::string>& names, const std::string& sub);

/// Names that one of the shell patterns matches ('*' also over '/').
std::vector<std::string> matching(const std::vector<std::string>& names,
                                  const std::vector<std::string>& patterns);

}  // namespace hlwq
