#include "eval/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace hlwq {
namespace {

constexpr uint64_t kLogitRows = 32;  // positions whose logits are held at a time

double log_sum_exp(std::span<const float> x, float& max) {
  max = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (float v : x) sum += std::exp(v - max);
  return max + std::log(sum);
}

struct TokenScore {
  double nll = 0, base_nll = 0, kl = 0;
  bool same_top = false;
};

TokenScore score(std::span<const float> logits, std::span<const float> base, int32_t target) {
  TokenScore s;
  float max, base_max;
  const double lse = log_sum_exp(logits, max);
  s.nll = lse - logits[static_cast<size_t>(target)];
  if (base.empty()) return s;
  const double base_lse = log_sum_exp(base, base_max);
  s.base_nll = base_lse - base[static_cast<size_t>(target)];
  // KL = sum p (log p - log q) = sum p (a - b) - (lse_a - lse_b), a and b the two models' logits.
  double sum = 0;
  for (size_t i = 0; i < base.size(); ++i)
    sum += static_cast<double>(std::exp(base[i] - base_max)) * static_cast<double>(base[i] - logits[i]);
  s.kl = std::max(0.0, sum * std::exp(base_max - base_lse) - (base_lse - lse));
  s.same_top = std::max_element(logits.begin(), logits.end()) - logits.begin() ==
               std::max_element(base.begin(), base.end()) - base.begin();
  return s;
}

}  // namespace

// Runs one model over one window after another, with a cache of its own.
class Evaluator::Runner {
 public:
  Runner(const Model& model, Engine& engine, uint64_t window, const KvSettings& kv)
      : model_(model), sequence_(engine.sequence(model, window, window, kv)) {}

  // Final hidden states of every position of the window.
  void read(std::span<const int32_t> ids) {
    const auto start = std::chrono::steady_clock::now();
    sequence_->truncate(0);
    sequence_->forward(ids);
    hidden_.resize(ids.size() * model_.spec().hidden);
    sequence_->states(0, ids.size(), hidden_.data());
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  // Final hidden states that read() found before.
  void take(const std::vector<float>& states) { hidden_ = states; }
  const std::vector<float>& states() const { return hidden_; }

  // Logits [rows, vocab] of positions first .. first + rows.
  std::span<float> logits(uint64_t first, uint64_t rows) {
    const auto start = std::chrono::steady_clock::now();
    logits_.resize(kLogitRows * model_.spec().vocab);
    sequence_->logits(hidden_.data() + first * model_.spec().hidden, rows, logits_.data());
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {logits_.data(), rows * model_.spec().vocab};
  }

  double seconds() const { return seconds_; }

 private:
  const Model& model_;
  std::unique_ptr<Sequence> sequence_;
  std::vector<float> hidden_, logits_;
  double seconds_ = 0;
};

// `k`: how many windows were read before.
void Evaluator::read_base(uint64_t k, std::span<const int32_t> window) {
  if (k < base_states_.size()) return base_runner_->take(base_states_[k]);
  base_runner_->read(window);
  const std::vector<float>& states = base_runner_->states();
  const uint64_t bytes = states.size() * sizeof(float);
  if (bytes > keep_bytes_ || k != base_states_.size()) return;
  keep_bytes_ -= bytes;
  base_states_.push_back(states);
}

Evaluator::Evaluator(const Model* base, Engine& engine, std::span<const int32_t> text,
                     const EvalOptions& options, uint64_t keep_bytes)
    : base_(base), engine_(engine), text_(text), options_(options), keep_bytes_(keep_bytes) {
  if (text.size() < 2) throw Error(ErrorCode::kInvalidArgument, "the text has too few tokens to predict any");
}

Evaluator::~Evaluator() = default;

EvalResult Evaluator::run(const Model& model, const KvSettings& kv, const Progress& progress) {
  const uint64_t with_bos = options_.bos >= 0 ? 1 : 0;
  const uint64_t vocab = model.spec().vocab;
  uint64_t longest = model.spec().max_context;
  if (base_) longest = std::min(longest, base_->spec().max_context);
  if (options_.window < 2 + with_bos || options_.window > longest)
    throw Error(ErrorCode::kInvalidArgument, "the window must have " + std::to_string(2 + with_bos) + " to " +
                                                 std::to_string(longest) + " tokens");
  const uint64_t body = options_.window - with_bos, stride = options_.stride ? options_.stride : body;
  if (stride > body)
    throw Error(ErrorCode::kInvalidArgument,
                "the stride must not pass the window's " + std::to_string(body) + " tokens");
  if (base_ && base_->spec().vocab != vocab)
    throw Error(ErrorCode::kInvalidArgument, "the two models have different vocabularies (" +
                                                 std::to_string(vocab) + " and " +
                                                 std::to_string(base_->spec().vocab) + " tokens)");

  uint64_t total = text_.size() <= body ? 1 : 1 + ceil_div(text_.size() - body, stride);
  if (options_.max_windows) total = std::min(total, options_.max_windows);

  Runner runner(model, engine_, options_.window, kv);
  if (base_ && !base_runner_)
    base_runner_ = std::make_unique<Runner>(*base_, engine_, options_.window, options_.base_kv);

  EvalResult result;
  result.has_base = base_ != nullptr;
  std::vector<double> kl;
  double nll = 0, base_nll = 0;
  uint64_t same_top = 0, predicted_to = 0;  // text[0, predicted_to) has been counted
  std::vector<int32_t> window;
  for (uint64_t k = 0; k < total; ++k) {
    progress.step(k, total, "evaluating");
    const uint64_t begin = k * stride, end = std::min<uint64_t>(begin + body, text_.size());
    window.clear();
    if (with_bos) window.push_back(options_.bos);
    window.insert(window.end(), text_.begin() + static_cast<std::ptrdiff_t>(begin),
                  text_.begin() + static_cast<std::ptrdiff_t>(end));
    const uint64_t first_target = std::max(predicted_to, begin + (with_bos ? 0 : 1));
    if (first_target >= end) continue;
    runner.read(window);
    if (base_runner_) read_base(result.windows, window);
    for (uint64_t target = first_target; target < end; target += kLogitRows) {
      const uint64_t rows = std::min(kLogitRows, end - target);
      const uint64_t position = target - begin + with_bos - 1;  // the logits here predict text_[target]
      const auto logits = runner.logits(position, rows);
      const auto base_logits = base_runner_ ? base_runner_->logits(position, rows) : std::span<float>();
      std::vector<TokenScore> scores(rows);
      engine_.compute().pool->parallel_for(rows, 1, [&](size_t b, size_t e, int) {
        for (size_t r = b; r < e; ++r)
          scores[r] =
              score(logits.subspan(r * vocab, vocab),
                    base_logits.empty() ? std::span<const float>() : base_logits.subspan(r * vocab, vocab),
                    text_[target + r]);
      });
      for (const TokenScore& s : scores) {
        nll += s.nll;
        base_nll += s.base_nll;
        same_top += s.same_top;
        if (base_) kl.push_back(s.kl);
      }
      result.tokens += rows;
    }
    predicted_to = end;
    ++result.windows;
  }
  progress.step(total, total, "evaluating");
  if (result.tokens == 0)
    throw Error(ErrorCode::kInvalidArgument, "the text has too few tokens to predict any");

  const auto n = static_cast<double>(result.tokens);
  result.nll = nll / n;
  result.ppl = std::exp(result.nll);
  result.seconds = runner.seconds();
  if (base_) {
    result.base_nll = base_nll / n;
    result.base_ppl = std::exp(result.base_nll);
    result.top1 = static_cast<double>(same_top) / n;
    double sum = 0;
    for (double v : kl) sum += v;
    result.kl_mean = sum / n;
    std::sort(kl.begin(), kl.end());
    result.kl_median = kl.size() % 2 ? kl[kl.size() / 2] : (kl[kl.size() / 2 - 1] + kl[kl.size() / 2]) / 2;
    result.kl_p99 = kl[std::min(kl.size() - 1, kl.size() * 99 / 100)];
  }
  return result;
}

EvalResult evaluate(const Model& model, const Model* base, Engine& engine, std::span<const int32_t> text,
                    const EvalOptions& options, const Progress& progress) {
  return Evaluator(base, engine, text, options).run(model, options.kv, progress);
}

}  // namespace hlwq
