// hlwq._core: what python/hlwq is made of. Requests and results with many parts cross as JSON.
#include <unistd.h>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "files_jobs.h"
#include "model.h"
#include "request.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hlwq::python {
namespace {

/// Without the GIL for as long as it lives. A daemon thread that wants it back while the interpreter ends
/// would be unwound by force, which no C++ frame survives: it waits for the end of the process instead.
class Unlocked {
 public:
  Unlocked() : ends_interpreter_(finalizing()), state_(PyEval_SaveThread()) {}
  ~Unlocked() {
    while (!ends_interpreter_ && finalizing()) ::pause();
    PyEval_RestoreThread(state_);
  }
  Unlocked(const Unlocked&) = delete;

 private:
  static bool finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
  }
  const bool ends_interpreter_;  // then this thread is the one that may go on
  PyThreadState* state_;
};

constexpr std::chrono::milliseconds kPoll{50};  // how soon a signal is seen

const char* error_class(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "InvalidArgumentError";
    case ErrorCode::kInvalidFile:
      return "InvalidFileError";
    case ErrorCode::kUnsupported:
      return "UnsupportedError";
    case ErrorCode::kNotFound:
      return "NotFoundError";
    case ErrorCode::kIo:
      return "FileAccessError";
    case ErrorCode::kOutOfMemory:
      return "OutOfMemoryError";
    case ErrorCode::kCancelled:
      return "CancelledError";
    case ErrorCode::kContextFull:
      return "ContextFullError";
    case ErrorCode::kDevice:
      return "DeviceError";
    case ErrorCode::kDenied:
      return "DeniedError";
    case ErrorCode::kNetwork:
      return "NetworkError";
    case ErrorCode::kNoSpace:
      return "NoSpaceError";
  }
  return "Error";
}

nb::str text(const std::string& s) {
  return nb::steal<nb::str>(PyUnicode_DecodeUTF8(s.data(), static_cast<Py_ssize_t>(s.size()), "replace"));
}

std::string_view view(const nb::bytes& b) { return {b.c_str(), b.size()}; }

OrderedJson request_json(const nb::bytes& b) { return parse_ordered_json(view(b), "the request"); }

/// Lets Python handle signals; where a handler raised (Ctrl-C), stops the job and raises.
void handle_signals(Job& job) {
  if (PyErr_CheckSignals() == 0) return;
  const nb::python_error raised;
  job.cancel();
  {
    const Unlocked unlocked;
    job.join();
  }
  throw raised;
}

/// Waits for the end with the GIL released; `progress` (None, or called with done, total, what) is told.
void finish(Job& job, const nb::object& progress = nb::none()) {
  uint64_t told = 0;
  for (bool done = false; !done;) {
    {
      const Unlocked unlocked;
      done = job.wait(kPoll, false);
    }
    if (!done) handle_signals(job);
    if (progress.is_none()) continue;
    const Job::Report report = job.report();
    if (report.count == told) continue;
    told = report.count;
    try {
      progress(report.done, report.total, text(report.what));
    } catch (const nb::python_error&) {
      job.cancel();
      const Unlocked unlocked;
      job.join();
      throw;
    }
  }
  job.rethrow();
}

class PyJob {
 public:
  explicit PyJob(std::shared_ptr<Job> job) : job_(std::move(job)) {}
  ~PyJob() { job_->cancel(); }
  PyJob(const PyJob&) = delete;

  nb::object next() {
    Job::Event event;
    for (;;) {
      const bool finished = job_->finished();  // asked first: what is said last comes before the end
      if (job_->pop(event)) return nb::make_tuple(text(event.kind), text(event.text));
      if (finished) {
        job_->rethrow();
        return nb::none();
      }
      {
        const Unlocked unlocked;
        job_->wait(kPoll, true);
      }
      handle_signals(*job_);
    }
  }
  nb::str result() {
    finish(*job_);
    return text(job_->result);
  }
  void cancel() { job_->cancel(); }

 private:
  std::shared_ptr<Job> job_;
};

using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<int32_t> to_vector(const Ids& ids) { return {ids.data(), ids.data() + ids.size()}; }

template <typename T>
nb::capsule owner(T* data) {
  return nb::capsule(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
}

class PyModel {
 public:
  PyModel(const nb::bytes& path, const nb::bytes& options)
      : model_(std::make_unique<LoadedModel>(std::string(view(path)), request_json(options))) {
    finish(*model_->load());
  }
  ~PyModel() {
    // In a forked child the threads that would have to end are not there: nothing can be taken down.
    if (model_->forked()) {
      (void)model_.release();
      return;
    }
    const Unlocked unlocked;
    model_.reset();
  }

  std::unique_ptr<PyJob> start(const nb::bytes& request, const nb::dict& images) {
    ImageFiles files;
    for (const auto& [name, bytes] : images)
      files[nb::cast<std::string>(name)] = std::string(view(nb::cast<nb::bytes>(bytes)));
    return std::make_unique<PyJob>(model_->generate(request_json(request), std::move(files)));
  }

  nb::ndarray<nb::numpy, float, nb::ndim<2>> logits(const Ids& ids, uint64_t first) {
    if (first > ids.size()) throw Error(ErrorCode::kInvalidArgument, "start is beyond the ids");
    const uint64_t rows = ids.size() - first, vocab = model_->model().spec().vocab;
    auto data = std::make_unique<float[]>(rows * vocab);
    if (rows) finish(*model_->logits(to_vector(ids), first, data.get()));
    float* out = data.release();
    return {out, {rows, vocab}, owner(out)};
  }

  nb::tuple score(const Ids& ids, uint64_t first) {
    if (first < 1 || first > ids.size())
      throw Error(ErrorCode::kInvalidArgument, "the first token has nothing before it that could predict it");
    const uint64_t rows = ids.size() - first;
    auto logprobs = std::make_unique<double[]>(rows);
    auto likeliest = std::make_unique<bool[]>(rows);
    if (rows) finish(*model_->score(to_vector(ids), first, logprobs.get(), likeliest.get()));
    double* p = logprobs.release();
    bool* l = likeliest.release();
    return nb::make_tuple(nb::ndarray<nb::numpy, double, nb::ndim<1>>(p, {rows}, owner(p)),
                          nb::ndarray<nb::numpy, bool, nb::ndim<1>>(l, {rows}, owner(l)));
  }

  nb::str info() {
    const auto job = model_->info();
    finish(*job);
    return text(job->result);
  }
  void reset() { finish(*model_->reset()); }
  void close() {
    if (model_->forked()) return;
    const Unlocked unlocked;
    model_->close();
  }
  nb::str plan(uint64_t context, int kv_bits) const { return text(model_->plan(context, kv_bits)); }
  nb::list take_notes() {
    nb::list notes;
    for (const std::string& note : model_->take_notes()) notes.append(text(note));
    return notes;
  }

  nb::str prompt(const nb::bytes& request) const {
    const OrderedJson json = request_json(request);
    return text(chat_prompt(model_->model(), json.at("messages"), model_->chat_options(json)));
  }
  std::vector<int32_t> prompt_ids(const nb::bytes& request) const {
    const OrderedJson json = request_json(request);
    return chat_ids(model_->model(), json.at("messages"), model_->chat_options(json));
  }

  std::vector<int32_t> encode(const nb::bytes& bytes, bool add_special, bool parse_special) const {
    const std::string_view source = view(bytes);
    const Unlocked unlocked;
    return tokenizer().encode(source, add_special, parse_special);
  }
  nb::str decode(const Ids& ids, bool skip_special) const {
    return text(tokenizer().decode({ids.data(), ids.size()}, skip_special));
  }
  nb::str token(int32_t id) const { return text(tokenizer().id_to_token(id)); }
  int32_t token_id(const nb::bytes& token) const { return tokenizer().token_to_id(view(token)); }
  bool is_special(int32_t id) const { return tokenizer().is_special(id); }
  int32_t token_count() const { return tokenizer().vocab_size(); }
  bool has_tokenizer() const { return model_->model().has_tokenizer(); }
  bool has_template() const { return model_->model().chat_template() != nullptr; }
  int32_t bos() const { return bos_token(model_->model()); }
  std::vector<int32_t> stop_ids() const {
    const std::set<int32_t> ids = stop_tokens(model_->model());
    return {ids.begin(), ids.end()};
  }

 private:
  const Tokenizer& tokenizer() const { return model_->model().tokenizer(); }

  std::unique_ptr<LoadedModel> model_;
};

/// Runs a job on a thread that ends with it; a tuple of its result and its notes.
template <typename Start>
nb::tuple run_alone(const nb::object& progress, Start&& start) {
  Worker worker;
  const std::shared_ptr<Job> job = start(worker);
  finish(*job, progress);
  nb::list notes;
  for (Job::Event event; job->pop(event);) notes.append(text(event.text));
  return nb::make_tuple(text(job->result), notes);
}

nb::tuple quantize_files(const nb::bytes& request, const nb::object& progress) {
  const OrderedJson json = request_json(request);
  return run_alone(progress, [&](Worker& worker) { return start_quantize(worker, json); });
}

nb::tuple pull_repository(const nb::bytes& repository, const nb::object& progress) {
  return run_alone(progress,
                   [&](Worker& worker) { return start_pull(worker, std::string(view(repository))); });
}

}  // namespace

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // models that live until the interpreter ends are no mistake
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const Error& e) {
      const nb::object type = nb::module_::import_("hlwq.errors").attr(error_class(e.code()));
      PyErr_SetObject(type.ptr(), text(e.what()).ptr());
    } catch (const OrderedJson::exception& e) {
      const nb::object type = nb::module_::import_("hlwq.errors").attr("InvalidArgumentError");
      PyErr_SetObject(type.ptr(), text(e.what()).ptr());
    }
  });

  nb::class_<PyJob>(m, "Job")
      .def("next", &PyJob::next)
      .def("result", &PyJob::result)
      .def("cancel", &PyJob::cancel);

  nb::class_<PyModel>(m, "Model")
      .def(nb::init<const nb::bytes&, const nb::bytes&>(), "path"_a, "options"_a)
      .def("start", &PyModel::start, "request"_a, "images"_a)
      .def("logits", &PyModel::logits, "ids"_a, "first"_a)
      .def("score", &PyModel::score, "ids"_a, "first"_a)
      .def("info", &PyModel::info)
      .def("reset", &PyModel::reset)
      .def("close", &PyModel::close)
      .def("plan", &PyModel::plan, "context"_a, "kv_bits"_a)
      .def("take_notes", &PyModel::take_notes)
      .def("prompt", &PyModel::prompt, "request"_a)
      .def("prompt_ids", &PyModel::prompt_ids, "request"_a)
      .def("encode", &PyModel::encode, "text"_a, "add_special"_a, "parse_special"_a)
      .def("decode", &PyModel::decode, "ids"_a, "skip_special"_a)
      .def("token", &PyModel::token, "id"_a)
      .def("token_id", &PyModel::token_id, "token"_a)
      .def("is_special", &PyModel::is_special, "id"_a)
      .def_prop_ro("token_count", &PyModel::token_count)
      .def_prop_ro("has_tokenizer", &PyModel::has_tokenizer)
      .def_prop_ro("has_template", &PyModel::has_template)
      .def_prop_ro("bos", &PyModel::bos)
      .def_prop_ro("stop_ids", &PyModel::stop_ids);

  m.def("quantize", &quantize_files, "request"_a, "progress"_a.none());
  m.def("pull", &pull_repository, "repository"_a, "progress"_a.none());
  m.def(
      "is_repository", [](const nb::bytes& name) { return is_repository(std::string(view(name))); },
      "text"_a);
  m.attr("version") = HLWQ_VERSION;
}

}  // namespace hlwq::python
