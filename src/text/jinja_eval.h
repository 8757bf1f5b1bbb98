// Walks the syntax tree: one Interp renders once.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_value.h"

namespace hlwq::jinja {

/// Variables of one block; reads go up the chain, writes stay here.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> variables;
  bool captured = false;  ///< a macro refers to it: a cycle that the Interp breaks at the end

  void set(const std::string& name, Value value);
  const Value* find(const std::string& name) const;
};
using ScopePtr = std::shared_ptr<Scope>;

class Interp {
 public:
  Interp(const Budget& limits, size_t max_output_bytes) : budget(limits), max_output_(max_output_bytes) {}
  ~Interp();
  Interp(const Interp&) = delete;
  Interp& operator=(const Interp&) = delete;

  Budget budget;
  /// Seconds since 1970 for strftime_now.
  int64_t now = 0;

  Text render(const Block& body, const ScopePtr& root);
  /// The line being executed, for messages.
  int line() const { return line_; }

  Value call(const Value& callee, const Arguments& arguments);
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);
  Value filter(const std::string& name, const Arguments& arguments);
  bool test(const std::string& name, const Arguments& arguments);
  /// Output of a macro's body, called with these arguments.
  Value call_macro(const MacroNode& macro, const ScopePtr& closure, const Arguments& arguments);
  /// The loop body over `items` again, from loop(items) in a recursive loop.
  Value run_recursive(const Stmt& loop, const ScopePtr& scope, const Value& iterable, int64_t level);
  Value make_namespace(const Arguments& arguments);

 private:
  enum class Flow : uint8_t { kNormal, kBreak, kContinue };

  struct Deeper;
  size_t max_output_;
  int line_ = 1;
  int depth_ = 0;       // of evaluation: bounds the C++ stack
  int call_depth_ = 0;  // of macros and recursive loops
  std::vector<ScopePtr> captured_scopes_;
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;

  void capture(const ScopePtr& scope);
  void write(Text& out, const Text& text);
  Flow execute(const Block& body, const ScopePtr& scope, Text& out);
  Flow execute(const Stmt& stmt, const ScopePtr& scope, Text& out);
  Flow execute_for(const Stmt& stmt, const ScopePtr& scope, const Value& iterable, int64_t level, Text& out);
  void execute_call_block(const Stmt& stmt, const ScopePtr& scope, Text& out);
  void assign(const Target& target, const Value& value, const ScopePtr& scope);

  Value evaluate(const Expr& expr, const ScopePtr& scope);
  Value negate(const Value& value);
  Value evaluate_name(const std::string& name, const ScopePtr& scope);
  Value evaluate_item(const Expr& expr, const ScopePtr& scope);
  Value evaluate_binary(const Expr& expr, const ScopePtr& scope);
  Value evaluate_compare(const Expr& expr, const ScopePtr& scope);
  Value evaluate_concat(const Expr& expr, const ScopePtr& scope);
  Value evaluate_dict(const Expr& expr, const ScopePtr& scope);
  Value evaluate_filter(const Expr& expr, const ScopePtr& scope, const Value* input);
  Arguments evaluate_arguments(const Expr& expr, const ScopePtr& scope);
  Values evaluate_all(const std::vector<ExprPtr>& items, const ScopePtr& scope);
};

/// A function of C++ seen as a value.
using NativeFunction = Value (*)(Interp& interp, const Value& self, const Arguments& arguments);
Value make_native(NativeFunction function, const Value& self);

/// The method `name` of a value of this kind; nullptr when there is none that a template may call.
NativeFunction find_method(const Value& object, const std::string& name);
/// range, namespace, dict, raise_exception, strftime_now...; undefined when there is none.
Value find_global(const std::string& name);

Value arithmetic(Interp& interp, Operator op, const Value& a, const Value& b);
bool compare(Budget& budget, Operator op, const Value& a, const Value& b);
/// object[start:stop:step]; None where absent.
Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step);

/// "format" % arguments.
Text format_percent(Interp& interp, const Text& format, const Value& arguments);
/// format.format(arguments).
Text format_braces(Interp& interp, const Text& format, const Arguments& arguments);

/// json.dumps with the options of transformers' tojson filter.
Value to_json(Interp& interp, const Arguments& arguments);

/// strftime in English, UTC, with the directives that templates use; throws for others.
std::string format_time(const std::string& format, int64_t unix_seconds);

}  // namespace hlwq::jinja
