#include "hub/settings.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "hlwq/error.h"

namespace hlwq {
namespace {

HubSettings with(std::map<std::string, std::string> variables) {
  variables.emplace("HOME", "/h");
  return hub_settings([&](const std::string& name) {
    const auto it = variables.find(name);
    return it == variables.end() ? std::nullopt : std::optional(it->second);
  });
}

TEST(HubSettings, FindsTheCacheInHuggingFacesOrder) {
  EXPECT_EQ(with({}).cache, "/h/.cache/huggingface/hub");
  EXPECT_EQ(with({{"XDG_CACHE_HOME", "/x"}}).cache, "/x/huggingface/hub");
  EXPECT_EQ(with({{"XDG_CACHE_HOME", "/x"}, {"HF_HOME", "~/f"}}).cache, "/h/f/hub");
  EXPECT_EQ(with({{"HF_HOME", "/f"}, {"HUGGINGFACE_HUB_CACHE", "/old"}}).cache, "/old");
  EXPECT_EQ(
      with({{"HUGGINGFACE_HUB_CACHE", "/old"}, {"HF_HUB_CACHE", "${DISK}/$NONE/new"}, {"DISK", "/d"}}).cache,
      "/d/$NONE/new");
}

TEST(HubSettings, ReadsSwitchesAndTimeouts) {
  const HubSettings plain = with({});
  EXPECT_FALSE(plain.offline);
  EXPECT_TRUE(plain.symlinks);
  EXPECT_EQ(plain.endpoint, "https://huggingface.co");
  EXPECT_EQ(plain.answer_timeout, 10);
  EXPECT_TRUE(with({{"HF_HUB_OFFLINE", "yes"}}).offline);
  EXPECT_TRUE(with({{"TRANSFORMERS_OFFLINE", "1"}}).offline);
  EXPECT_FALSE(with({{"HF_HUB_OFFLINE", "0"}}).offline);
  EXPECT_FALSE(with({{"HF_HUB_DISABLE_SYMLINKS", "True"}}).symlinks);
  EXPECT_EQ(with({{"HF_ENDPOINT", "http://mirror/"}}).endpoint, "http://mirror");
  EXPECT_EQ(with({{"HF_HUB_ETAG_TIMEOUT", "30"}, {"HF_HUB_DOWNLOAD_TIMEOUT", "many"}}).answer_timeout, 30);
  EXPECT_EQ(with({{"SSL_CERT_FILE", "~/ca.pem"}, {"CURL_CA_BUNDLE", "/c"}}).ca_file, "/h/ca.pem");
  EXPECT_THROW(with({{"HF_ENDPOINT", "file:///etc"}}), Error);
}

TEST(HubSettings, FindsTheToken) {
  const std::string file = testing::TempDir() + "hub-token";
  std::ofstream(file) << "  hf_file\n";
  EXPECT_EQ(with({{"HF_TOKEN_PATH", file}}).token, "hf_file");
  EXPECT_EQ(with({{"HF_TOKEN_PATH", file}, {"HF_TOKEN", "hf_variable "}}).token, "hf_variable");
  EXPECT_EQ(with({{"HF_TOKEN", "hf_variable"}, {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}}).token, "");
  EXPECT_EQ(with({{"HF_TOKEN_PATH", "/nowhere"}}).token, "");
  EXPECT_THROW(with({{"HF_TOKEN", "a\r\nHost: evil"}}), Error);
}

}  // namespace
}  // namespace hlwq
