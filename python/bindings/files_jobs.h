// Work on files: quantising, and downloading from the Hub.
#pragma once

#include <memory>

#include "job.h"
#include "request.h"

namespace hlwq::python {

/// request: the fields of QuantizeRequest; absent means its default. Events are "note"; the result is JSON.
std::shared_ptr<Job> start_quantize(Worker& worker, const OrderedJson& request);

/// Finds "owner/name[@revision][/sub]" in the shared cache, or downloads it; the result is its path. An event
/// "note" says that it downloads.
std::shared_ptr<Job> start_pull(Worker& worker, const std::string& repository);

/// Whether `text` has the form of a repository id. Throws Error(kInvalidArgument) for one with a bad part.
bool is_repository(const std::string& text);

}  // namespace hlwq::python
