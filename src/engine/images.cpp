#include "engine/images.h"

#include <algorithm>
#include <cstring>

#include "base/file.h"

namespace hlwq {
namespace {

// Two independent 64-bit hashes over eight bytes at a time (multiply, rotate, xor, as the usual fast ones):
// tells files apart, resists nobody who wants two to look the same.
std::array<uint64_t, 2> hash_bytes(std::span<const std::byte> bytes, uint64_t seed) {
  constexpr uint64_t kA = 0x9e3779b97f4a7c15, kB = 0xc2b2ae3d27d4eb4f;
  std::array<uint64_t, 2> h{seed ^ kA, seed ^ kB};
  const auto mix = [&](uint64_t v) {
    h[0] = ((h[0] ^ v * kA) << 31 | (h[0] ^ v * kA) >> 33) * kB;
    h[1] = ((h[1] ^ v * kB) << 27 | (h[1] ^ v * kB) >> 37) * kA + 0x52dce729;
  };
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t v;
    std::memcpy(&v, bytes.data() + i, 8);
    mix(v);
  }
  uint64_t tail = 0;
  if (i < bytes.size()) std::memcpy(&tail, bytes.data() + i, bytes.size() - i);
  mix(tail);
  mix(bytes.size());
  for (uint64_t& v : h) {
    v ^= v >> 29;
    v *= 0xbf58476d1ce4e5b9;
    v ^= v >> 32;
  }
  return h;
}

}  // namespace

std::vector<std::string> image_paths(const OrderedJson& messages) {
  std::vector<std::string> paths;
  for (const auto& message : messages) {
    if (!message.is_object() || !message.contains("content") || !message["content"].is_array()) continue;
    for (const auto& part : message["content"]) {
      if (!part.is_object() || !part.contains("type") || part["type"] != "image") continue;
      if (!part.contains("path") || !part["path"].is_string())
        throw Error(ErrorCode::kInvalidArgument,
                    R"(an image in a message is {"type": "image", "path": FILE}; this one has no path)");
      paths.push_back(part["path"]);
    }
  }
  return paths;
}

OrderedJson image_message(const std::vector<std::string>& paths, const std::string& text) {
  OrderedJson parts = OrderedJson::array();
  for (const std::string& path : paths) parts.push_back({{"type", "image"}, {"path", path}});
  if (!text.empty()) parts.push_back({{"type", "text"}, {"text", text}});
  return {{"role", "user"}, {"content", std::move(parts)}};
}

ImageEncoder::ImageEncoder(std::shared_ptr<const Model> model, const ImageOptions& options)
    : model_(std::move(model)), options_(options) {
  const VisionTower& tower = model_->require_vision();
  if (options_.budget == ImageOptions::Budget::kModel) {
    options_.budget = ImageOptions::Budget::kFixed;
    options_.tokens = tower.spec().default_tokens;
  }
  if (options_.budget == ImageOptions::Budget::kFixed)
    target_size(1, 1, options_.tokens, tower.patch_shape());  // refuses budgets that there are not
}

uint64_t ImageEncoder::max_tokens() const {
  return options_.budget == ImageOptions::Budget::kAuto ? kImageBudgets.back() : options_.tokens;
}

uint64_t ImageEncoder::Entry::bytes() const {
  return patches.pixels.size() + (features ? features->embeddings.size() * sizeof(float) : 0);
}

// Forgets the entries longest unused beyond the limit, but none of the `keep` newest.
void ImageEncoder::shrink(size_t keep) {
  uint64_t bytes = 0;
  size_t n = 0;
  for (auto e = entries_.begin(); e != entries_.end(); ++n) {
    bytes += e->bytes();
    e = n >= keep && bytes > options_.cache_bytes ? entries_.erase(e) : std::next(e);
  }
}

ImageEncoder::Entry& ImageEncoder::prepare(const std::string& path) {
  const std::string bytes = options_.read ? options_.read(path) : read_file(path, options_.limits.max_bytes);
  const std::span<const std::byte> file = std::as_bytes(std::span(bytes));
  const bool automatic = options_.budget == ImageOptions::Budget::kAuto;
  const Hash hash = hash_bytes(file, automatic ? 1 : options_.tokens);
  const auto known =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.hash == hash; });
  if (known != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, known);
  } else {
    const PatchShape shape = model_->vision()->patch_shape();
    const Image image = decode_image(file, path, options_.limits);
    Entry entry{.hash = hash, .info = {path, image.width, image.height, 0}, .patches = {}, .features = {}};
    entry.patches = make_patches(image, automatic ? auto_budget(image, shape) : options_.tokens, shape);
    entry.info.tokens = entry.patches.tokens();
    entries_.push_front(std::move(entry));
  }
  entries_.front().info.path = path;
  return entries_.front();
}

std::shared_ptr<const ImageFeatures> ImageEncoder::encode(Engine& engine, Entry& entry,
                                                          const Progress& progress) {
  if (!entry.features) {
    auto features = std::make_shared<ImageFeatures>();
    features->hash = entry.hash;
    features->tokens = entry.info.tokens;
    features->embeddings = engine.encode_image(*model_, entry.patches, progress);
    entry.features = std::move(features);
    entry.patches.pixels = {};
  }
  return entry.features;
}

ImageInfo ImageEncoder::inspect(const std::string& path) {
  const ImageInfo info = prepare(path).info;
  shrink(1);
  return info;
}

ImageEncoder::Chat ImageEncoder::chat(Engine& engine, const OrderedJson& messages, const ChatOptions& options,
                                      uint64_t context, const Progress& progress) {
  const ModelSpec& spec = model_->spec();
  Chat out;
  std::vector<Entry*> entries;
  for (const std::string& path : image_paths(messages)) {
    entries.push_back(&prepare(path));
    out.images.push_back(entries.back()->info);
  }
  const std::vector<int32_t> ids = chat_ids(*model_, messages, options);
  const auto placed = static_cast<size_t>(std::count(ids.begin(), ids.end(), spec.image_token));
  if (placed != entries.size())
    throw Error(ErrorCode::kInvalidArgument, "the model's chat template placed " + std::to_string(placed) +
                                                 " images, the messages have " +
                                                 std::to_string(entries.size()));
  size_t next = 0;
  for (int32_t id : ids) {
    if (id != spec.image_token) {
      out.prompt.ids.push_back(id);
      continue;
    }
    if (spec.begin_image_token >= 0) out.prompt.ids.push_back(spec.begin_image_token);
    out.prompt.images.push_back({out.prompt.ids.size(), nullptr});
    out.prompt.ids.insert(out.prompt.ids.end(), entries[next++]->info.tokens, spec.image_token);
    if (spec.end_image_token >= 0) out.prompt.ids.push_back(spec.end_image_token);
  }
  if (context && out.prompt.ids.size() >= context)
    throw Error(ErrorCode::kContextFull,
                "the prompt with its images has " + std::to_string(out.prompt.ids.size()) +
                    " tokens, the context holds " + std::to_string(context) +
                    "; use a larger context (--ctx) or fewer tokens per image (--image-tokens)");
  for (size_t i = 0; i < entries.size(); ++i)
    out.prompt.images[i].features = encode(engine, *entries[i], progress);
  shrink(entries.size());
  return out;
}

}  // namespace hlwq
