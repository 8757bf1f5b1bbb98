// Trains the coupled codebooks of quant/coupled_tables.h and writes coupled_tables.cpp.
//
//   train_codebooks OUTPUT.cpp [--only BITS,LAGS]
//
// Everything is seeded and every sum has a fixed order, so the file depends neither on threads nor on the
// instruction set.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <string>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "integer_tables.h"
#include "quant/trellis.h"

namespace hlwq::training {
namespace {

/// How much work a table gets: what its search costs allows.
struct Plan {
  int bits, lags;
  int starts;      ///< random starts
  size_t tiles;    ///< of samples an iteration
  int iterations;  ///< with noise
  int keep;        ///< best starts that are worked on
  int rounds;      ///< times that each of them is annealed again
  size_t exact;    ///< tiles that the last comparisons use
  int sweeps;      ///< over the neighbours of the rounded tables
};

constexpr Plan kPlans[] = {
    {2, 2, 64, 8, 60, 2, 4, 256, 8},   {3, 2, 400, 4, 60, 4, 8, 256, 8}, {4, 2, 800, 4, 60, 8, 16, 256, 4},
    {5, 2, 100, 8, 80, 6, 12, 128, 3}, {6, 2, 24, 8, 60, 4, 9, 128, 1},  {2, 3, 128, 8, 60, 4, 8, 256, 8},
    {3, 3, 128, 4, 80, 6, 12, 256, 4}, {4, 3, 24, 8, 60, 4, 9, 128, 2},
};
constexpr size_t kMeasured = 131072;  ///< blocks of the stored figure

struct Result {
  int bits, lags;
  IntegerTables tables;
  double mse;
};

/// Runs task(i, trainer) for i < n, a trainer a thread.
class Workers {
 public:
  Workers(ThreadPool& pool, int bits, int lags) : pool_(pool) {
    for (int i = 0; i < pool.threads(); ++i) trainers_.push_back(std::make_unique<Trainer>(bits, lags));
  }
  void run(size_t n, const std::function<void(size_t, Trainer&)>& task) {
    pool_.parallel_for(n, 1, [&](size_t begin, size_t end, int thread) {
      for (size_t i = begin; i < end; ++i) task(i, *trainers_[static_cast<size_t>(thread)]);
    });
  }

 private:
  ThreadPool& pool_;
  std::vector<std::unique_ptr<Trainer>> trainers_;
};

struct Candidate {
  std::vector<double> w;
  double mse = 0;
};
void best_first(std::vector<Candidate>& c) {
  std::stable_sort(c.begin(), c.end(), [](const Candidate& x, const Candidate& y) { return x.mse < y.mse; });
}

uint64_t seed_of(const Plan& plan, uint64_t stage, uint64_t i) {
  return ((static_cast<uint64_t>(plan.bits) * 8 + static_cast<uint64_t>(plan.lags)) * 16 + stage) << 32 | i;
}

/// A change that descent alone does not find: two codes of a lag change places, or a code starts anew.
void mutate(std::vector<double>& w, const Trainer& trainer, Random& random) {
  const auto half = static_cast<size_t>(trainer.half()), lags = static_cast<size_t>(trainer.lags());
  for (size_t changes = 1 + random.below(3); changes > 0; --changes) {
    const size_t lag = random.below(lags) * half, i = random.below(half), j = random.below(half);
    switch (random.below(3)) {
      case 0:
        std::swap(w[lag + i], w[lag + j]);
        break;
      case 1: {
        const double x = w[lag + i];
        w[lag + i] = -w[lag + j];
        w[lag + j] = -x;
        break;
      }
      default:
        for (size_t l = 0; l < lags; ++l) w[l * half + i] = 0.7 * random.normal();
    }
  }
  trainer.normalise(w);
}

std::vector<Candidate> train(const Plan& plan, const Samples& samples, Workers& workers) {
  const size_t compare = plan.exact / 2;
  std::vector<Candidate> all(static_cast<size_t>(plan.starts));
  workers.run(all.size(), [&](size_t i, Trainer& trainer) {
    Random random(seed_of(plan, 0, i));
    Candidate& c = all[i];
    c.w = i % 4 == 0 ? trainer.random_start(random) : trainer.opposed_start(random);
    trainer.descend(c.w, samples, plan.tiles, i % 2 ? 0.3 : 0.6, plan.iterations, 10, random);
    c.mse = trainer.measure(c.w, samples, 0, compare).mse(c.w);
  });
  best_first(all);
  all.resize(static_cast<size_t>(plan.keep));
  workers.run(all.size(), [&](size_t i, Trainer& trainer) {
    Random random(seed_of(plan, 1, i));
    for (int round = 0; round < plan.rounds; ++round) {
      Candidate c = all[i];
      if (round % 4 == 3) mutate(c.w, trainer, random);
      trainer.descend(c.w, samples, 2 * plan.tiles, 0.3, 2 * plan.iterations, 10, random);
      c.mse = trainer.measure(c.w, samples, 0, compare).mse(c.w);
      if (c.mse < all[i].mse) all[i] = c;
    }
    // To convergence, on all that the comparison uses.
    trainer.descend(all[i].w, samples, plan.exact, 0, 0, 12, random);
    all[i].mse = trainer.measure(all[i].w, samples, 0, plan.exact).mse(all[i].w);
  });
  best_first(all);
  return all;
}

/// Takes what helps among changes of one entry by one, until nothing does.
void improve(const Plan& plan, IntegerTables& best, Limits limits, const Samples& samples, Workers& workers) {
  const auto measure = [&](IntegerTables& t, Trainer& trainer) {
    t.mse = trainer.measure(t.values(), samples, 0, plan.exact).mse(t.values());
  };
  Trainer own(plan.bits, plan.lags);
  measure(best, own);
  for (int sweep = 0; sweep < plan.sweeps; ++sweep) {
    const IntegerTables start = best;
    std::vector<IntegerTables> near = neighbours(start, 1 << (plan.bits - 1), limits);
    workers.run(near.size(), [&](size_t i, Trainer& trainer) { measure(near[i], trainer); });
    std::erase_if(near, [&](const IntegerTables& t) { return t.mse >= start.mse; });
    if (near.empty()) return;
    std::stable_sort(near.begin(), near.end(), [](const auto& x, const auto& y) { return x.mse < y.mse; });
    best = near[0];
    for (size_t i = 1; i < std::min<size_t>(near.size(), 12); ++i) {
      IntegerTables both = best;
      for (size_t j = 0; j < both.n.size(); ++j) both.n[j] += near[i].n[j] - start.n[j];
      both.step *= near[i].step / start.step;
      if (!within(both, 1 << (plan.bits - 1), limits)) continue;
      measure(both, own);
      if (both.mse < best.mse) best = both;
    }
  }
}

/// The error of the engine's own encoder on Gaussian blocks of 128, one search at scale 1.
double encoder_mse(const Plan& plan, const IntegerTables& tables, size_t blocks, uint64_t stage,
                   ThreadPool& pool) {
  constexpr int kBlock = 128;
  constexpr size_t kChunk = 64;  // blocks
  Codebook codebook{plan.bits, plan.lags, Tables::odd(plan.bits, plan.lags, tables.values()).values};
  const TrellisEncoder encoder(codebook, detect_cpu());
  std::vector<double> errors(blocks / kChunk);
  pool.parallel_for(errors.size(), 1, [&](size_t begin, size_t end, int) {
    TrellisScratch scratch;
    std::vector<float> u(kChunk * kBlock), c(kBlock);
    std::vector<uint8_t> q(kChunk * kBlock);
    for (size_t i = begin; i < end; ++i) {
      Random random(seed_of(plan, stage, i));
      for (float& x : u) x = static_cast<float>(random.normal());
      encoder.encode(u.data(), kBlock, kChunk, 1, scratch, q.data());
      for (size_t b = 0; b < kChunk; ++b) {
        codebook_values(codebook, q.data() + b * kBlock, kBlock, c.data());
        for (size_t t = 0; t < kBlock; ++t) {
          const double d = u[b * kBlock + t] - c[t];
          errors[i] += d * d;
        }
      }
    }
  });
  double sum = 0;
  for (const double e : errors) sum += e;
  return sum / static_cast<double>(blocks * kBlock);
}

/// The trained tables on the grid: each candidate's, the best by the engine's encoder on blocks of its own.
IntegerTables round_best(const Plan& plan, const std::vector<Candidate>& trained, Limits limits,
                         const Samples& samples, Workers& workers, ThreadPool& pool) {
  std::vector<IntegerTables> rounded(std::min<size_t>(trained.size(), 4));
  workers.run(rounded.size(), [&](size_t i, Trainer& trainer) {
    rounded[i] = round_tables(trainer, trained[i].w, limits, samples, plan.exact / 2);
  });
  for (IntegerTables& t : rounded) t.mse = encoder_mse(plan, t, kMeasured / 4, 8, pool);
  IntegerTables best = *std::min_element(rounded.begin(), rounded.end(),
                                         [](const auto& x, const auto& y) { return x.mse < y.mse; });
  improve(plan, best, limits, samples, workers);
  normalise(best, 1 << (plan.bits - 1));
  return best;
}

std::string source(const std::vector<Result>& results) {
  char line[200];
  std::string s =
      "// Generated by tools/train_codebooks: ninja train_codebooks && ./train_codebooks coupled_tables.cpp\n"
      "#include \"quant/coupled_tables.h\"\n\nnamespace hlwq {\nnamespace {\n\n// clang-format off\n";
  for (const Result& r : results) {
    s += "constexpr int8_t kQ" + std::to_string(r.bits) + "L" + std::to_string(r.lags) + "[] = {";
    for (size_t i = 0; i < r.tables.n.size(); ++i) s += (i ? ", " : "") + std::to_string(r.tables.n[i]);
    s += "};\n";
  }
  s += "constexpr CoupledTable kTables[] = {\n";
  for (const Result& r : results) {
    std::snprintf(line, sizeof line, "    {%d, %d, %.9gf, kQ%dL%d, %.6g},\n", r.bits, r.lags,
                  static_cast<double>(static_cast<float>(r.tables.step)), r.bits, r.lags, r.mse);
    s += line;
  }
  s += "};\n// clang-format on\n\n}  // namespace\n\n"
       "const CoupledTable* coupled_table(int bits, int lags) {\n"
       "  for (const CoupledTable& t : kTables)\n"
       "    if (t.bits == bits && t.lags == lags) return &t;\n"
       "  return nullptr;\n}\n\n}  // namespace hlwq\n";
  return s;
}

int run(const std::string& output, const std::string& only) {
  ThreadPool pool;
  const Samples samples(512, 1);
  std::vector<Result> results;
  for (const Plan& plan : kPlans) {
    if (!only.empty() && only != std::to_string(plan.bits) + "," + std::to_string(plan.lags)) continue;
    const auto begin = std::chrono::steady_clock::now();
    Workers workers(pool, plan.bits, plan.lags);
    const std::vector<Candidate> trained = train(plan, samples, workers);
    const auto report = [&](const char* what, Limits limits) {
      const IntegerTables t = round_best(plan, trained, limits, samples, workers, pool);
      const double mse = encoder_mse(plan, t, kMeasured, 9, pool);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      std::printf("Q%d l%d %s: trained %.7f, rounded %.7f, encoder %.7f, reach %.1f, step %.6f (%.0f s)\n",
                  plan.bits, plan.lags, what, trained[0].mse, t.mse, mse, t.reach(1 << (plan.bits - 1)),
                  t.step, seconds);
      std::fflush(stdout);
      return Result{plan.bits, plan.lags, t, mse};
    };
    Result bounded = report("sum in INT8", {127});
    const Result wide = report("each in INT8", {1e9});
    // A sum beyond INT8 costs kernels with many tokens a second product, so only six bits may have it, and
    // only for a gain.
    results.push_back(plan.bits == 6 && bounded.mse > 1.015 * wide.mse ? wide : bounded);
  }
  std::ofstream(output) << source(results);
  return 0;
}

}  // namespace
}  // namespace hlwq::training

int main(int argc, char** argv) {
  if (argc != 2 && !(argc == 4 && std::string(argv[2]) == "--only")) {
    std::cerr << "usage: train_codebooks OUTPUT.cpp [--only BITS,LAGS]\n";
    return 2;
  }
  return hlwq::training::run(argv[1], argc == 4 ? argv[3] : "");
}
