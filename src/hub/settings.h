// Where the shared cache lies, whom to ask and with which token: Hugging Face's own environment variables.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace hlwq {

struct HubSettings {
  std::filesystem::path cache;                        ///< HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub
  std::string endpoint = "https://huggingface.co";    ///< HF_ENDPOINT
  std::string token;                                  ///< HF_TOKEN, or the token file's; may be empty
  bool offline = false;                               ///< HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE
  bool symlinks = true;                               ///< unless HF_HUB_DISABLE_SYMLINKS
  double answer_timeout = 10, download_timeout = 10;  ///< seconds until an answer, and without any byte
  std::filesystem::path
      ca_file;  ///< trusted certificates, instead of the system's: SSL_CERT_FILE, REQUESTS_CA_BUNDLE...
  std::string user_agent = "hlwq";
};

/// The value of an environment variable, or nothing.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;

/// Reads HF_HOME, XDG_CACHE_HOME, HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH,
/// HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE, HF_HUB_DISABLE_SYMLINKS,
/// HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (and SSL_CERT_FILE and its kin), with huggingface_hub's
/// defaults and precedence. Throws Error(kInvalidArgument) for an endpoint that is no http(s) URL or a token
/// that no header can carry.
HubSettings hub_settings(const Environment& environment);

}  // namespace hlwq
