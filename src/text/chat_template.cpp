#include "text/chat_template.h"

#include <chrono>
#include <new>

#include "text/jinja_ast.h"
#include "text/jinja_eval.h"

namespace hlwq {

using namespace jinja;

struct ChatTemplate::Impl {
  TemplateLimits limits;
  Block body;

  Text render(const OrderedJson& variables) const;
};

namespace {

// What the user and the outside world wrote: never the source of special tokens.
bool is_untrusted(const std::string& name) {
  return name == "messages" || name == "tools" || name == "documents";
}

Value from_json(Budget& budget, const OrderedJson& json, bool untrusted, int depth) {
  budget.step();
  budget.nesting(depth);
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case OrderedJson::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case OrderedJson::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
        fail("an integer in the variables does not fit in 64 bits");
      return Value::integer(json.get<int64_t>());
    case OrderedJson::value_t::number_float:
      return Value::real(json.get<double>());
    case OrderedJson::value_t::string: {
      const auto& s = json.get_ref<const std::string&>();
      // The conversation itself may be as large as it likes: only what templates make of it is limited.
      return Value::string(Text(s, untrusted));
    }
    case OrderedJson::value_t::array: {
      Values items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json(budget, item, untrusted, depth + 1));
      return make_list(budget, std::move(items));
    }
    case OrderedJson::value_t::object: {
      auto dict = std::make_shared<DictObject>();
      for (const auto& [key, value] : json.items())
        dict->set(budget, Value::string(Text(key, untrusted)),
                  from_json(budget, value, untrusted, depth + 1));
      return make_dict(budget, std::move(dict));
    }
    default:
      return Value::none();
  }
}

int64_t current_time(const OrderedJson& variables) {
  const auto it = variables.find("strftime_now_epoch");
  if (it != variables.end() && it->is_number_integer()) return it->get<int64_t>();
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

}  // namespace

Text ChatTemplate::Impl::render(const OrderedJson& variables) const {
  if (!variables.is_object())
    throw Error(ErrorCode::kInvalidArgument, "chat template: the variables must be an object");
  Interp interp(Budget(limits.max_steps, limits.max_output_bytes, limits.max_depth), limits.max_output_bytes);
  const auto failed = [&](const char* what) {
    return Error(ErrorCode::kInvalidFile,
                 "chat template, line " + std::to_string(interp.line()) + ": " + what);
  };
  try {
    interp.now = current_time(variables);
    auto root = std::make_shared<Scope>();
    for (const auto& [name, value] : variables.items())
      root->set(name, from_json(interp.budget, value, is_untrusted(name), 0));
    return interp.render(body, root);
  } catch (const RaisedByTemplate& e) {
    throw Error(ErrorCode::kInvalidArgument, std::string("chat template: ") + e.what());
  } catch (const RuntimeFailure& e) {
    throw failed(e.what());
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kOutOfMemory, "chat template: not enough memory");
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw failed(e.what());
  }
}

ChatTemplate::ChatTemplate(std::string_view source, const TemplateLimits& limits)
    : impl_(std::make_unique<Impl>()) {
  if (source.size() > limits.max_source_bytes)
    throw Error(ErrorCode::kInvalidFile, "chat template: " + std::to_string(source.size()) +
                                             " bytes are over the limit of " +
                                             std::to_string(limits.max_source_bytes));
  impl_->limits = limits;
  impl_->body = parse(source, limits.max_depth);
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const OrderedJson& variables) const {
  return impl_->render(variables).bytes();
}

std::vector<Tokenizer::Piece> ChatTemplate::render_pieces(const OrderedJson& variables) const {
  const Text text = impl_->render(variables);
  std::vector<Tokenizer::Piece> pieces;
  text.for_each_run([&](size_t begin, size_t end, bool untrusted) {
    pieces.push_back({text.bytes().substr(begin, end - begin), !untrusted});
  });
  return pieces;
}

}  // namespace hlwq
