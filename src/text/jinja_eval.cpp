#include "text/jinja_eval.h"

#include <algorithm>

namespace hlwq::jinja {

namespace {

// Frames of evaluate() on the C++ stack at once; each is under 1 kB in an optimised build.
constexpr int kMaxEvaluationDepth = 2000;

class Native final : public CallableObject {
 public:
  Native(NativeFunction function, Value self) : function_(function), self_(std::move(self)) {
    depth = self_.depth() + 1;
  }
  Value call(Interp& interp, const Arguments& arguments) override {
    return function_(interp, self_, arguments);
  }

 private:
  NativeFunction function_;
  Value self_;
};

class Macro final : public CallableObject {
 public:
  Macro(std::shared_ptr<MacroNode> node, ScopePtr closure)
      : node_(std::move(node)), closure_(std::move(closure)) {}
  Value call(Interp& interp, const Arguments& arguments) override {
    return interp.call_macro(*node_, closure_, arguments);
  }
  std::string name() const { return node_->name; }

 private:
  std::shared_ptr<MacroNode> node_;
  ScopePtr closure_;
};

class RecursiveLoop final : public CallableObject {
 public:
  RecursiveLoop(const Stmt& loop, ScopePtr scope, int64_t level)
      : loop_(loop), scope_(std::move(scope)), level_(level) {}
  Value call(Interp& interp, const Arguments& arguments) override {
    const Values a = arguments.bind("loop", {"iterable"}, 1);
    return interp.run_recursive(loop_, scope_, a[0], level_ + 1);
  }

 private:
  const Stmt& loop_;
  ScopePtr scope_;
  int64_t level_;
};

Value undefined_attribute(const Value& object, const std::string& name) {
  return Value::undefined("'" + type_name(object) + " object' has no attribute '" + name + "'");
}

Value loop_attribute(const LoopObject& loop, const std::string& name) {
  const auto index = static_cast<int64_t>(loop.index);
  const auto count = static_cast<int64_t>(loop.items.size());
  if (name == "index") return Value::integer(index + 1);
  if (name == "index0") return Value::integer(index);
  if (name == "revindex") return Value::integer(count - index);
  if (name == "revindex0") return Value::integer(count - index - 1);
  if (name == "first") return Value::boolean(index == 0);
  if (name == "last") return Value::boolean(index + 1 == count);
  if (name == "length") return Value::integer(count);
  if (name == "depth") return Value::integer(loop.level + 1);
  if (name == "depth0") return Value::integer(loop.level);
  if (name == "previtem")
    return index > 0 ? loop.items[loop.index - 1] : Value::undefined("there is no previous item");
  if (name == "nextitem")
    return index + 1 < count ? loop.items[loop.index + 1] : Value::undefined("there is no next item");
  return Value::missing();
}

}  // namespace

Value make_native(NativeFunction function, const Value& self) {
  return Value::object(Kind::kCallable, std::make_shared<Native>(function, self));
}

void Scope::set(const std::string& name, Value value) {
  for (auto& variable : variables) {
    if (variable.first == name) {
      variable.second = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

const Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get())
    for (const auto& variable : scope->variables)
      if (variable.first == name) return &variable.second;
  return nullptr;
}

struct Interp::Deeper {
  Deeper(int& counter, int limit) : counter_(counter) {
    if (counter_ >= limit) fail("the template recurses too deeply");
    ++counter_;
  }
  ~Deeper() { --counter_; }
  int& counter_;
};

// Macros refer to the scope that holds them, namespaces may hold themselves: what they hold goes first.
Interp::~Interp() {
  for (const auto& scope : captured_scopes_) scope->variables.clear();
  for (const auto& ns : namespaces_) ns->attributes.clear();
}

void Interp::capture(const ScopePtr& scope) {
  for (ScopePtr s = scope; s && !s->captured; s = s->parent) {
    s->captured = true;
    captured_scopes_.push_back(s);
  }
}

Text Interp::render(const Block& body, const ScopePtr& root) {
  Text out;
  capture(root);
  execute(body, root, out);
  return out;
}

void Interp::write(Text& out, const Text& text) {
  if (out.size() + text.size() > max_output_)
    fail("the output is over the limit of " + std::to_string(max_output_) + " bytes");
  budget.step(text.size() / 8);
  out.append(text);
}

Interp::Flow Interp::execute(const Block& body, const ScopePtr& scope, Text& out) {
  for (const auto& stmt : body) {
    const Flow flow = execute(*stmt, scope, out);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interp::Flow Interp::execute(const Stmt& stmt, const ScopePtr& scope, Text& out) {
  const Deeper deeper(depth_, kMaxEvaluationDepth);
  budget.step();
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kData:
      if (out.size() + stmt.data.size() > max_output_) write(out, Text(stmt.data, false));
      budget.step(stmt.data.size() / 8);
      out.append(stmt.data, false);
      return Flow::kNormal;
    case StmtKind::kOutput: {
      const Value value = evaluate(*stmt.expr, scope);
      if (value.is_string())
        write(out, value.text());
      else
        write(out, to_text(budget, value));
      return Flow::kNormal;
    }
    case StmtKind::kIf:
      for (const Branch& branch : stmt.branches)
        if (truthy(evaluate(*branch.test, scope))) return execute(branch.body, scope, out);
      return execute(stmt.otherwise, scope, out);
    case StmtKind::kFor:
      return execute_for(stmt, scope, evaluate(*stmt.expr, scope), 0, out);
    case StmtKind::kSet:
      assign(stmt.target, evaluate(*stmt.expr, scope), scope);
      return Flow::kNormal;
    case StmtKind::kSetBlock: {
      auto inner = std::make_shared<Scope>();
      inner->parent = scope;
      Text text;
      const Flow flow = execute(stmt.body, inner, text);
      Value value = make_string(budget, std::move(text));
      if (stmt.filter) value = evaluate_filter(*stmt.filter, inner, &value);
      assign(stmt.target, value, scope);
      return flow;
    }
    case StmtKind::kMacro:
      capture(scope);
      budget.step(32);
      scope->set(stmt.macro->name,
                 Value::object(Kind::kCallable, std::make_shared<Macro>(stmt.macro, scope)));
      return Flow::kNormal;
    case StmtKind::kCallBlock:
      execute_call_block(stmt, scope, out);
      return Flow::kNormal;
    case StmtKind::kFilterBlock: {
      auto inner = std::make_shared<Scope>();
      inner->parent = scope;
      Text text;
      const Flow flow = execute(stmt.body, inner, text);
      const Value input = make_string(budget, std::move(text));
      write(out, to_text(budget, evaluate_filter(*stmt.filter, inner, &input)));
      return flow;
    }
    case StmtKind::kWith: {
      auto inner = std::make_shared<Scope>();
      inner->parent = scope;
      // Values are evaluated outside: none sees another.
      Values values;
      for (const auto& assignment : stmt.assignments) values.push_back(evaluate(*assignment.second, scope));
      for (size_t i = 0; i < values.size(); ++i) assign(stmt.assignments[i].first, values[i], inner);
      return execute(stmt.body, inner, out);
    }
    case StmtKind::kGeneration: {
      auto inner = std::make_shared<Scope>();
      inner->parent = scope;
      execute(stmt.body, inner, out);
      return Flow::kNormal;
    }
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

Interp::Flow Interp::execute_for(const Stmt& stmt, const ScopePtr& scope, const Value& iterable,
                                 int64_t level, Text& out) {
  Values items = iterate(budget, iterable);
  const auto fresh = [&] {
    auto inner = std::make_shared<Scope>();
    inner->parent = scope;
    return inner;
  };
  ScopePtr inner = fresh();
  const auto renew = [&] {
    if (inner.use_count() > 1 || inner->captured)
      inner = fresh();
    else
      inner->variables.clear();
  };
  if (stmt.filter) {
    Values kept;
    for (const Value& value : items) {
      budget.step();
      renew();
      assign(stmt.target, value, inner);
      if (truthy(evaluate(*stmt.filter, inner))) kept.push_back(value);
    }
    items = std::move(kept);
  }
  auto loop = std::make_shared<LoopObject>();
  for (const Value& value : items) loop->depth = std::max(loop->depth, value.depth() + 1);
  loop->items = std::move(items);
  loop->level = level;
  if (stmt.recursive) {
    capture(scope);
    loop->recurse = std::make_shared<RecursiveLoop>(stmt, scope, level);
  }
  // jinja2 clears its "nothing happened" flag at the end of the body, which `continue` and `break` skip.
  bool completed_one = false;
  for (size_t i = 0; i < loop->items.size(); ++i) {
    budget.step();
    renew();
    loop->index = i;
    inner->variables.emplace_back("loop", Value::object(Kind::kLoop, loop));
    assign(stmt.target, loop->items[i], inner);
    const Flow flow = execute(stmt.body, inner, out);
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNormal) completed_one = true;
  }
  if (!completed_one && !stmt.otherwise.empty()) return execute(stmt.otherwise, fresh(), out);
  return Flow::kNormal;
}

Value Interp::run_recursive(const Stmt& loop, const ScopePtr& scope, const Value& iterable, int64_t level) {
  const Deeper deeper(call_depth_, budget.max_depth());
  Text out;
  execute_for(loop, scope, iterable, level, out);
  return make_string(budget, std::move(out));
}

void Interp::execute_call_block(const Stmt& stmt, const ScopePtr& scope, Text& out) {
  capture(scope);
  budget.step(32);
  const Expr& call_expr = *stmt.expr;
  const Value callee = evaluate(*call_expr.items[0], scope);
  Arguments arguments = evaluate_arguments(call_expr, scope);
  arguments.keywords.emplace_back("caller",
                                  Value::object(Kind::kCallable, std::make_shared<Macro>(stmt.macro, scope)));
  line_ = stmt.line;
  write(out, to_text(budget, call(callee, arguments)));
}

Value Interp::call_macro(const MacroNode& macro, const ScopePtr& closure, const Arguments& arguments) {
  const Deeper deeper(call_depth_, budget.max_depth());
  auto scope = std::make_shared<Scope>();
  scope->parent = closure;
  const size_t count = macro.parameters.size();
  Values values(count, Value::missing());
  for (size_t i = 0; i < std::min(count, arguments.positional.size()); ++i)
    values[i] = arguments.positional[i];
  auto extra = std::make_shared<DictObject>();
  Value caller = Value::undefined("there is no caller");
  for (const auto& [name, value] : arguments.keywords) {
    const auto it = std::find_if(macro.parameters.begin(), macro.parameters.end(),
                                 [&n = name](const Parameter& p) { return p.name == n; });
    if (it != macro.parameters.end()) {
      Value& slot = values[static_cast<size_t>(it - macro.parameters.begin())];
      if (!slot.is_missing()) fail("macro '" + macro.name + "' got two values for '" + name + "'");
      slot = value;
    } else if (name == "caller" && macro.uses_caller) {
      caller = value;
    } else if (macro.uses_kwargs) {
      extra->set(budget, Value::string(name), value);
    } else {
      fail("macro '" + macro.name + "' takes no argument '" + name + "'");
    }
  }
  if (arguments.positional.size() > count && !macro.uses_varargs)
    fail("macro '" + macro.name + "' takes at most " + std::to_string(count) + " arguments");
  if (macro.uses_caller) scope->set("caller", caller);
  if (macro.uses_kwargs) scope->set("kwargs", make_dict(budget, std::move(extra)));
  if (macro.uses_varargs) {
    const auto begin = arguments.positional.begin() +
                       static_cast<std::ptrdiff_t>(std::min(count, arguments.positional.size()));
    scope->set("varargs", make_tuple(budget, Values(begin, arguments.positional.end())));
  }
  for (size_t i = 0; i < count; ++i) {
    const Parameter& parameter = macro.parameters[i];
    if (values[i].is_missing())
      values[i] = parameter.default_value
                      ? evaluate(*parameter.default_value, scope)
                      : Value::undefined("parameter '" + parameter.name + "' was not provided");
    scope->set(parameter.name, values[i]);
  }
  Text out;
  execute(macro.body, scope, out);
  return make_string(budget, std::move(out));
}

Value Interp::make_namespace(const Arguments& arguments) {
  auto ns = std::make_shared<NamespaceObject>();
  budget.step(32);
  const auto set = [&ns](const std::string& name, const Value& value) {
    for (auto& attribute : ns->attributes) {
      if (attribute.first == name) {
        attribute.second = value;
        return;
      }
    }
    ns->attributes.emplace_back(name, value);
  };
  if (arguments.positional.size() > 1) fail("namespace takes one positional argument");
  for (const Value& source : arguments.positional) {
    if (!source.is_dict()) fail("namespace needs a dictionary, not " + type_name(source));
    for (const auto& [key, value] : source.dict().items)
      if (key.is_string()) set(key.bytes(), value);
  }
  for (const auto& [name, value] : arguments.keywords) set(name, value);
  budget.step(4 * ns->attributes.size());
  namespaces_.push_back(ns);
  return Value::object(Kind::kNamespace, std::move(ns));
}

void Interp::assign(const Target& target, const Value& value, const ScopePtr& scope) {
  if (target.is_tuple) {
    const Values parts = iterate(budget, value);
    if (parts.size() != target.parts.size())
      fail("cannot unpack " + std::to_string(parts.size()) + " values into " +
           std::to_string(target.parts.size()) + " names");
    for (size_t i = 0; i < parts.size(); ++i) assign(target.parts[i], parts[i], scope);
    return;
  }
  if (target.attribute.empty()) {
    scope->set(target.name, value);
    return;
  }
  const Value* ns = scope->find(target.name);
  if (ns == nullptr || !ns->is(Kind::kNamespace))
    fail("cannot assign an attribute of '" + target.name + "': not a namespace");
  auto& attributes = ns->name_space().attributes;
  for (auto& attribute : attributes) {
    if (attribute.first == target.attribute) {
      attribute.second = value;
      return;
    }
  }
  budget.step(8);
  attributes.emplace_back(target.attribute, value);
}

// ---- expressions ----

Value Interp::evaluate(const Expr& expr, const ScopePtr& scope) {
  const Deeper deeper(depth_, kMaxEvaluationDepth);
  budget.step();
  line_ = expr.line;
  switch (expr.kind) {
    case ExprKind::kConst:
      return expr.value;
    case ExprKind::kName:
      return evaluate_name(expr.name, scope);
    case ExprKind::kList:
      return make_list(budget, evaluate_all(expr.items, scope));
    case ExprKind::kTuple:
      return make_tuple(budget, evaluate_all(expr.items, scope));
    case ExprKind::kDict:
      return evaluate_dict(expr, scope);
    case ExprKind::kGetattr:
      return attribute(evaluate(*expr.items[0], scope), expr.name);
    case ExprKind::kGetitem:
      return evaluate_item(expr, scope);
    case ExprKind::kSlice:
      fail("a slice is only possible as the one subscript");
    case ExprKind::kCall: {
      const Value callee = evaluate(*expr.items[0], scope);
      const Arguments arguments = evaluate_arguments(expr, scope);
      line_ = expr.line;
      return call(callee, arguments);
    }
    case ExprKind::kFilter:
      return evaluate_filter(expr, scope, nullptr);
    case ExprKind::kTest: {
      Arguments arguments = evaluate_arguments(expr, scope);
      arguments.positional.insert(arguments.positional.begin(), evaluate(*expr.items[0], scope));
      return Value::boolean(test(expr.name, arguments));
    }
    case ExprKind::kNot:
      return Value::boolean(!truthy(evaluate(*expr.items[0], scope)));
    case ExprKind::kNegate:
      return negate(evaluate(*expr.items[0], scope));
    case ExprKind::kPlus:
      return arithmetic(*this, Operator::kSub, evaluate(*expr.items[0], scope), Value::integer(0));
    case ExprKind::kBinary:
      return evaluate_binary(expr, scope);
    case ExprKind::kConcat:
      return evaluate_concat(expr, scope);
    case ExprKind::kCompare:
      return evaluate_compare(expr, scope);
    case ExprKind::kAnd: {
      Value left = evaluate(*expr.items[0], scope);
      return truthy(left) ? evaluate(*expr.items[1], scope) : left;
    }
    case ExprKind::kOr: {
      Value left = evaluate(*expr.items[0], scope);
      return truthy(left) ? left : evaluate(*expr.items[1], scope);
    }
    case ExprKind::kCondition:
      if (truthy(evaluate(*expr.items[1], scope))) return evaluate(*expr.items[0], scope);
      if (expr.items[2]) return evaluate(*expr.items[2], scope);
      return Value::undefined("the inline if of line " + std::to_string(expr.line) +
                              " was false and has no else");
  }
  return {};
}

Value Interp::negate(const Value& value) {
  // 0 - 0.0 would lose the sign of zero.
  if (value.is_float()) return Value::real(-value.as_double());
  return arithmetic(*this, Operator::kSub, Value::integer(0), value);
}

Value Interp::evaluate_name(const std::string& name, const ScopePtr& scope) {
  if (const Value* value = scope->find(name)) return *value;
  Value global = find_global(name);
  return global.is_undefined() ? Value::undefined("'" + name + "' is undefined") : global;
}

Values Interp::evaluate_all(const std::vector<ExprPtr>& items, const ScopePtr& scope) {
  Values values;
  values.reserve(items.size());
  for (const auto& item : items) values.push_back(evaluate(*item, scope));
  return values;
}

Value Interp::evaluate_dict(const Expr& expr, const ScopePtr& scope) {
  auto dict = std::make_shared<DictObject>();
  for (size_t i = 0; i + 1 < expr.items.size(); i += 2) {
    const Value key = evaluate(*expr.items[i], scope);
    dict->set(budget, key, evaluate(*expr.items[i + 1], scope));
  }
  return make_dict(budget, std::move(dict));
}

Value Interp::evaluate_item(const Expr& expr, const ScopePtr& scope) {
  const Value object = evaluate(*expr.items[0], scope);
  const Expr& index = *expr.items[1];
  if (index.kind != ExprKind::kSlice) return item(object, evaluate(index, scope));
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i)
    bounds[i] = index.items[i] ? evaluate(*index.items[i], scope) : Value::none();
  return slice(budget, object, bounds[0], bounds[1], bounds[2]);
}

Value Interp::evaluate_binary(const Expr& expr, const ScopePtr& scope) {
  const Value left = evaluate(*expr.items[0], scope);
  const Value right = evaluate(*expr.items[1], scope);
  line_ = expr.line;
  return arithmetic(*this, expr.op, left, right);
}

Value Interp::evaluate_compare(const Expr& expr, const ScopePtr& scope) {
  Value left = evaluate(*expr.items[0], scope);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = evaluate(*expr.items[i + 1], scope);
    if (!compare(budget, expr.operators[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interp::evaluate_concat(const Expr& expr, const ScopePtr& scope) {
  Text out;
  for (const auto& item : expr.items) {
    const Value value = evaluate(*item, scope);
    const Text text = to_text(budget, value);
    budget.bytes(out.size() + text.size());
    out.append(text);
  }
  return Value::string(std::move(out));
}

Value Interp::evaluate_filter(const Expr& expr, const ScopePtr& scope, const Value* input) {
  Arguments arguments;
  // In a filter block the innermost filter has no input of its own.
  Value first;
  if (expr.items[0])
    first = expr.items[0]->kind == ExprKind::kFilter ? evaluate_filter(*expr.items[0], scope, input)
                                                     : evaluate(*expr.items[0], scope);
  else if (input != nullptr)
    first = *input;
  arguments = evaluate_arguments(expr, scope);
  arguments.positional.insert(arguments.positional.begin(), std::move(first));
  line_ = expr.line;
  return filter(expr.name, arguments);
}

Arguments Interp::evaluate_arguments(const Expr& expr, const ScopePtr& scope) {
  Arguments arguments;
  for (size_t i = 1; i < expr.items.size(); ++i)
    arguments.positional.push_back(evaluate(*expr.items[i], scope));
  for (const auto& [name, value] : expr.keywords)
    arguments.keywords.emplace_back(name, evaluate(*value, scope));
  if (expr.star) {
    const Values more = iterate(budget, evaluate(*expr.star, scope));
    arguments.positional.insert(arguments.positional.end(), more.begin(), more.end());
  }
  if (expr.star_star) {
    const Value more = evaluate(*expr.star_star, scope);
    if (!more.is_dict()) fail("the argument after ** must be a dictionary");
    for (const auto& [key, value] : more.dict().items) {
      if (!key.is_string()) fail("keywords must be strings");
      arguments.keywords.emplace_back(key.bytes(), value);
    }
  }
  return arguments;
}

Value Interp::call(const Value& callee, const Arguments& arguments) {
  if (callee.is_undefined()) fail(callee.ptr() ? callee.bytes() : "an undefined value cannot be called");
  if (callee.is(Kind::kLoop)) {
    if (!callee.loop().recurse) fail("loop(...) needs a loop marked 'recursive'");
    return callee.loop().recurse->call(*this, arguments);
  }
  if (!callee.is(Kind::kCallable)) fail("'" + type_name(callee) + "' object is not callable");
  return callee.callable().call(*this, arguments);
}

Value Interp::attribute(const Value& object, const std::string& name) {
  if (object.is_undefined())
    fail((object.ptr() ? object.bytes() : std::string("an undefined value")) + ", so it has no attribute '" +
         name + "'");
  // Python's own attributes: a sandbox never hands them out.
  const bool internal = name.starts_with("__") && name.ends_with("__");
  if (!internal) {
    if (const NativeFunction method = find_method(object, name)) {
      Value bound = make_native(method, object);
      budget.nesting(bound.depth() - 1);
      return bound;
    }
    if (object.is(Kind::kLoop)) {
      Value value = loop_attribute(object.loop(), name);
      if (!value.is_missing()) return value;
    }
    if (object.is(Kind::kNamespace) && !name.starts_with("_")) {
      for (const auto& attribute : object.name_space().attributes)
        if (attribute.first == name) return attribute.second;
    }
    if (object.is_dict())
      if (const Value* value = object.dict().find(budget, std::string_view(name))) return *value;
    if (object.is_seq() && object.seq().group && (name == "grouper" || name == "list"))
      return object.seq().items[name == "list"];
    if (object.is(Kind::kCallable) && name == "name")
      if (const auto* macro = dynamic_cast<const Macro*>(&object.callable()))
        return Value::string(macro->name());
  }
  return undefined_attribute(object, name);
}

Value Interp::item(const Value& object, const Value& key) {
  if (object.is_undefined())
    fail((object.ptr() ? object.bytes() : std::string("an undefined value")) + ", so it has no items");
  if (object.is_dict()) {
    const bool unhashable = key.is_dict() || (key.is_seq() && key.seq().seq_kind != SeqKind::kTuple);
    if (!unhashable)
      if (const Value* value = object.dict().find(budget, key)) return *value;
  } else if (key.is_integral() && (object.is_seq() || object.is_string())) {
    const bool indexable = object.is_string() || object.seq().seq_kind <= SeqKind::kRange;
    if (indexable) {
      budget.step(object.is_string() ? object.text().size() / 32 : 0);
      const int64_t count = length(object);
      const int64_t index = key.as_int() < 0 ? key.as_int() + count : key.as_int();
      if (index >= 0 && index < count) {
        if (object.is_seq()) return object.seq().items[static_cast<size_t>(index)];
        return slice(budget, object, Value::integer(index), Value::integer(index + 1), Value::none());
      }
    }
  }
  if (key.is_string()) {
    if (!object.is_dict()) return attribute(object, key.bytes());
    if (const NativeFunction method = find_method(object, key.bytes())) return make_native(method, object);
  }
  return undefined_attribute(object, to_text(budget, key).bytes().substr(0, 80));
}

}  // namespace hlwq::jinja
