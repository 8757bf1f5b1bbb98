// The listed tensors of a config against the tensors that its checkpoint has.
#include "model/tensor_list.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "hlwq/error.h"
#include "io/model_source.h"
#include "model/config_reader.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text;
  for (uint64_t d : shape) text += std::to_string(d) + " ";
  return text;
}

// Every unquantised model in the build tree, so that a new golden model is a new case.
std::vector<std::string> models() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(HLWQ_UNPACKED))
    if (const fs::path config = entry.path() / "config.json";
        fs::exists(config) && !read_ordered_json(config).contains("quantization_config"))
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class TensorListTest : public testing::TestWithParam<std::string> {};

TEST_P(TensorListTest, IsTheCheckpoint) {
  const ModelSource source = open_model(fs::path(HLWQ_UNPACKED) / GetParam());
  const TensorList list = list_tensors(source.config, model_spec(source.config));
  EXPECT_TRUE(list.not_counted.empty());
  std::map<std::string, std::string> listed, stored;
  for (const ListedTensor& t : list.tensors) {
    EXPECT_TRUE(listed.emplace(t.name, shape_text(t.shape)).second) << t.name << " twice";
    EXPECT_EQ(tensor_role(t.name), t.role) << t.name;
  }
  for (const Tensor& t : source.tensors->tensors()) stored.emplace(t.name, shape_text(t.shape));
  for (const auto& [name, shape] : stored) {
    const auto it = listed.find(name);
    if (it == listed.end())
      ADD_FAILURE() << name << " [" << shape << "] is not listed";
    else
      EXPECT_EQ(it->second, shape) << name;
  }
  for (const auto& [name, shape] : listed)
    EXPECT_TRUE(stored.contains(name)) << name << " [" << shape << "] is not in the checkpoint";
}

INSTANTIATE_TEST_SUITE_P(Models, TensorListTest, testing::ValuesIn(models()), [](const auto& p) {
  std::string name = p.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(TensorList, HasModels) { EXPECT_GE(models().size(), 10u); }

}  // namespace
}  // namespace hlwq
