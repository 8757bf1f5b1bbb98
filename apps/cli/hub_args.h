// MODEL arguments: a path, or a repository that is looked up in the shared Hugging Face cache and downloaded.
#pragma once

#include <memory>
#include <string>

#include "hub/pull.h"
#include "model/model.h"

namespace hlwq::cli {

/// From the process's environment.
HubSettings hub_environment();

/// Whether progress may be drawn: not with HF_HUB_DISABLE_PROGRESS_BARS.
bool progress_allowed();

/// `model` itself when it is there or is no repository id; else the repository's path in the cache. What is
/// missing is downloaded, and stderr says so. Throws Error, UsageError.
std::string find_model(const std::string& model, FileSet files = FileSet::kModel);

/// The model that MODEL names, with notes on stderr about how it was read.
std::shared_ptr<const Model> load_model(const std::string& model);

}  // namespace hlwq::cli
