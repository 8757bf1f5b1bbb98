// Typed errors: the only exception type that leaves the library.
#pragma once

#include <stdexcept>
#include <string>

namespace hlwq {

/// What kind of failure an Error reports; callers branch on this, people read the message.
enum class ErrorCode {
  kInvalidArgument,  ///< the caller asked for something that makes no sense
  kInvalidFile,      ///< a file is truncated, malformed, hostile or inconsistent
  kUnsupported,      ///< valid, but this build does not do it
  kNotFound,         ///< a file, tensor or key is missing
  kIo,               ///< the operating system refused to read or write
  kOutOfMemory,      ///< memory for the request is not available
  kCancelled,        ///< interrupted on request
  kContextFull,      ///< the sequence does not fit in the context
  kDevice,           ///< a GPU call failed, or there is no GPU
  kDenied,           ///< a server wants a token, or one with more rights
  kNetwork,          ///< no connection, or a server that fails
  kNoSpace,          ///< the disk is full
};

/// Says what was wrong, where, and what to do about it, in one or two sentences.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace hlwq
