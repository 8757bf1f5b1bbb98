// Recursive descent over the tokens; precedence and quirks are jinja2's.
#include <algorithm>

#include "hlwq/error.h"
#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace hlwq::jinja {
namespace {

// Long chains (a + b + c...) make deep trees without deep recursion in the parser; evaluation would recurse
// on them.
constexpr int kMaxTreeDepth = 1000;

class Parser {
 public:
  Parser(std::string_view source, int max_depth) : tokens_(tokenize(source)), max_depth_(max_depth) {}

  Block parse_template() {
    Block body = parse_body({});
    if (!at(TokenKind::kEnd)) error("unexpected end of block");
    if (!unknown_.empty()) syntax_error(unknown_[0].first, unknown_[0].second);
    return body;
  }

 private:
  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int max_depth_;
  int depth_ = 0;
  int loop_depth_ = 0;        // for break and continue
  bool conditional_ = false;  // unknown filters are an error only when reached, as in jinja2
  MacroNode* macro_ = nullptr;
  std::vector<std::pair<int, std::string>>
      unknown_;  // filters and tests, reported if not conditional after all

  struct Deeper {
    explicit Deeper(Parser& p) : parser(p) {
      if (++parser.depth_ > parser.max_depth_) parser.error("nested too deeply");
    }
    ~Deeper() { --parser.depth_; }
    Parser& parser;
  };

  [[noreturn]] void error(const std::string& message) const { syntax_error(current().line, message); }
  const Token& current() const { return tokens_[pos_]; }
  const Token& next() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  bool at(TokenKind kind) const { return current().kind == kind; }
  bool at_op(std::string_view op) const { return at(TokenKind::kOperator) && current().text == op; }
  bool at_name(std::string_view name) const { return at(TokenKind::kName) && current().text == name; }
  void skip() {
    if (pos_ + 1 < tokens_.size()) ++pos_;
  }
  bool skip_op(std::string_view op) {
    if (!at_op(op)) return false;
    skip();
    return true;
  }
  bool skip_name(std::string_view name) {
    if (!at_name(name)) return false;
    skip();
    return true;
  }
  std::string describe() const {
    switch (current().kind) {
      case TokenKind::kEnd:
        return "the end of the template";
      case TokenKind::kData:
        return "text";
      case TokenKind::kVariableEnd:
        return "'}}'";
      case TokenKind::kBlockEnd:
        return "'%}'";
      default:
        return "'" + current().text.substr(0, 40) + "'";
    }
  }
  void expect_op(std::string_view op) {
    if (!skip_op(op)) error("expected '" + std::string(op) + "', found " + describe());
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) error("expected '" + std::string(name) + "', found " + describe());
  }
  std::string take_name() {
    if (!at(TokenKind::kName)) error("expected a name, found " + describe());
    std::string name = current().text;
    skip();
    return name;
  }
  void expect_block_end() {
    if (!at(TokenKind::kBlockEnd)) error("expected '%}', found " + describe());
    skip();
  }

  ExprPtr make(ExprKind kind, int line, std::vector<ExprPtr> items = {}) const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = line;
    expr->items = std::move(items);
    seal(*expr);
    return expr;
  }
  template <class... E>
  ExprPtr node(ExprKind kind, int line, E... items) const {
    std::vector<ExprPtr> list;
    (list.push_back(std::move(items)), ...);
    return make(kind, line, std::move(list));
  }
  void seal(Expr& expr) const {
    int depth = 0;
    for (const auto& item : expr.items)
      if (item) depth = std::max(depth, item->depth);
    for (const auto& [name, value] : expr.keywords) depth = std::max(depth, value->depth);
    if (expr.star) depth = std::max(depth, expr.star->depth);
    if (expr.star_star) depth = std::max(depth, expr.star_star->depth);
    expr.depth = depth + 1;
    if (expr.depth > kMaxTreeDepth) error("expression too long");
  }

  // ---- expressions ----

  ExprPtr parse_expression(bool with_condition = true) {
    const Deeper deeper(*this);
    if (!with_condition) return parse_or();
    const int line = current().line;
    const size_t known = unknown_.size();
    ExprPtr expr = parse_or();
    while (at_name("if")) {
      unknown_.resize(known);
      skip();
      const bool outer = std::exchange(conditional_, true);
      ExprPtr test = parse_or();
      ExprPtr otherwise;
      if (skip_name("else")) otherwise = parse_expression();
      conditional_ = outer;
      expr = node(ExprKind::kCondition, line, std::move(expr), std::move(test), std::move(otherwise));
    }
    return expr;
  }

  ExprPtr parse_or() {
    ExprPtr left = parse_and();
    while (at_name("or")) {
      const int line = current().line;
      skip();
      ExprPtr right = parse_and();
      left = node(ExprKind::kOr, line, std::move(left), std::move(right));
    }
    return left;
  }

  ExprPtr parse_and() {
    ExprPtr left = parse_not();
    while (at_name("and")) {
      const int line = current().line;
      skip();
      ExprPtr right = parse_not();
      left = node(ExprKind::kAnd, line, std::move(left), std::move(right));
    }
    return left;
  }

  ExprPtr parse_not() {
    if (!at_name("not")) return parse_compare();
    const Deeper deeper(*this);
    const int line = current().line;
    skip();
    return node(ExprKind::kNot, line, parse_not());
  }

  ExprPtr parse_compare() {
    const int line = current().line;
    ExprPtr first = parse_sum();
    std::vector<ExprPtr> items;
    std::vector<Operator> operators;
    while (true) {
      if (at_op("=="))
        operators.push_back(Operator::kEq);
      else if (at_op("!="))
        operators.push_back(Operator::kNe);
      else if (at_op("<"))
        operators.push_back(Operator::kLt);
      else if (at_op("<="))
        operators.push_back(Operator::kLe);
      else if (at_op(">"))
        operators.push_back(Operator::kGt);
      else if (at_op(">="))
        operators.push_back(Operator::kGe);
      else if (at_name("in"))
        operators.push_back(Operator::kIn);
      else if (at_name("not") && next().kind == TokenKind::kName && next().text == "in") {
        operators.push_back(Operator::kNotIn);
        skip();
      } else {
        break;
      }
      skip();
      if (items.empty()) items.push_back(std::move(first));
      items.push_back(parse_sum());
    }
    if (operators.empty()) return first;
    ExprPtr expr = make(ExprKind::kCompare, line, std::move(items));
    expr->operators = std::move(operators);
    return expr;
  }

  ExprPtr binary(Operator op, int line, ExprPtr left, ExprPtr right) const {
    ExprPtr expr = node(ExprKind::kBinary, line, std::move(left), std::move(right));
    expr->op = op;
    return expr;
  }

  ExprPtr parse_sum() {
    ExprPtr left = parse_concat();
    while (at_op("+") || at_op("-")) {
      const Operator op = at_op("+") ? Operator::kAdd : Operator::kSub;
      const int line = current().line;
      skip();
      ExprPtr right = parse_concat();
      left = binary(op, line, std::move(left), std::move(right));
    }
    return left;
  }

  ExprPtr parse_concat() {
    const int line = current().line;
    std::vector<ExprPtr> items;
    items.push_back(parse_product());
    while (skip_op("~")) items.push_back(parse_product());
    if (items.size() == 1) return std::move(items[0]);
    return make(ExprKind::kConcat, line, std::move(items));
  }

  ExprPtr parse_product() {
    ExprPtr left = parse_power();
    while (at_op("*") || at_op("/") || at_op("//") || at_op("%")) {
      const Operator op = at_op("*")    ? Operator::kMul
                          : at_op("/")  ? Operator::kDiv
                          : at_op("//") ? Operator::kFloorDiv
                                        : Operator::kMod;
      const int line = current().line;
      skip();
      ExprPtr right = parse_power();
      left = binary(op, line, std::move(left), std::move(right));
    }
    return left;
  }

  ExprPtr parse_power() {
    ExprPtr left = parse_unary(true);
    while (at_op("**")) {
      const int line = current().line;
      skip();
      ExprPtr right = parse_unary(true);
      left = binary(Operator::kPow, line, std::move(left), std::move(right));
    }
    return left;
  }

  ExprPtr parse_unary(bool with_filter) {
    ExprPtr expr;
    if (at_op("-") || at_op("+")) {
      const Deeper deeper(*this);
      const ExprKind kind = at_op("-") ? ExprKind::kNegate : ExprKind::kPlus;
      const int line = current().line;
      skip();
      expr = node(kind, line, parse_unary(false));
    } else {
      expr = parse_primary();
    }
    expr = parse_postfix(std::move(expr));
    return with_filter ? parse_filters_and_tests(std::move(expr)) : std::move(expr);
  }

  ExprPtr constant(Value value, int line) const {
    ExprPtr expr = make(ExprKind::kConst, line);
    expr->value = std::move(value);
    return expr;
  }

  ExprPtr parse_primary() {
    const Token& token = current();
    const int line = token.line;
    switch (token.kind) {
      case TokenKind::kName: {
        const std::string name = take_name();
        if (name == "true" || name == "True") return constant(Value::boolean(true), line);
        if (name == "false" || name == "False") return constant(Value::boolean(false), line);
        if (name == "none" || name == "None") return constant(Value::none(), line);
        if (macro_ != nullptr) {
          macro_->uses_varargs |= name == "varargs";
          macro_->uses_kwargs |= name == "kwargs";
          macro_->uses_caller |= name == "caller";
        }
        ExprPtr expr = make(ExprKind::kName, line);
        expr->name = name;
        return expr;
      }
      case TokenKind::kString: {
        std::string text;
        for (; at(TokenKind::kString); skip()) text += current().text;
        return constant(Value::string(std::move(text)), line);
      }
      case TokenKind::kInteger: {
        const Value value = Value::integer(token.integer);
        skip();
        return constant(value, line);
      }
      case TokenKind::kFloat: {
        const Value value = Value::real(token.real);
        skip();
        return constant(value, line);
      }
      case TokenKind::kOperator:
        if (token.text == "(") {
          skip();
          ExprPtr expr = parse_tuple(true, true);
          expect_op(")");
          return expr;
        }
        if (token.text == "[") return parse_list();
        if (token.text == "{") return parse_dict();
        [[fallthrough]];
      default:
        error("expected an expression, found " + describe());
    }
  }

  bool at_tuple_end() const { return at(TokenKind::kVariableEnd) || at(TokenKind::kBlockEnd) || at_op(")"); }

  // One expression, or several with commas between as a tuple.
  ExprPtr parse_tuple(bool with_condition, bool parenthesised) {
    const int line = current().line;
    std::vector<ExprPtr> items;
    bool is_tuple = false;
    while (true) {
      if (!items.empty()) expect_op(",");
      if (at_tuple_end()) break;
      items.push_back(parse_expression(with_condition));
      if (!at_op(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      if (!items.empty()) return std::move(items[0]);
      if (!parenthesised) error("expected an expression, found " + describe());
    }
    return make(ExprKind::kTuple, line, std::move(items));
  }

  ExprPtr parse_list() {
    const int line = current().line;
    skip();
    std::vector<ExprPtr> items;
    while (!at_op("]")) {
      if (!items.empty()) expect_op(",");
      if (at_op("]")) break;
      items.push_back(parse_expression());
    }
    expect_op("]");
    return make(ExprKind::kList, line, std::move(items));
  }

  ExprPtr parse_dict() {
    const int line = current().line;
    skip();
    std::vector<ExprPtr> items;
    while (!at_op("}")) {
      if (!items.empty()) expect_op(",");
      if (at_op("}")) break;
      items.push_back(parse_expression());
      expect_op(":");
      items.push_back(parse_expression());
    }
    expect_op("}");
    return make(ExprKind::kDict, line, std::move(items));
  }

  ExprPtr parse_postfix(ExprPtr expr) {
    while (true) {
      if (at_op("."))
        expr = parse_attribute(std::move(expr));
      else if (at_op("["))
        expr = parse_subscript(std::move(expr));
      else if (at_op("("))
        expr = parse_call(std::move(expr));
      else
        return expr;
    }
  }

  ExprPtr parse_filters_and_tests(ExprPtr expr) {
    while (true) {
      if (at_op("|")) {
        skip();
        expr = parse_filter(std::move(expr));
      } else if (at_name("is")) {
        expr = parse_test(std::move(expr));
      } else if (at_op("(")) {
        expr = parse_call(std::move(expr));
      } else {
        return expr;
      }
    }
  }

  ExprPtr parse_attribute(ExprPtr object) {
    const int line = current().line;
    skip();
    if (at(TokenKind::kInteger)) {
      ExprPtr index = constant(Value::integer(current().integer), line);
      skip();
      return node(ExprKind::kGetitem, line, std::move(object), std::move(index));
    }
    std::string name = take_name();
    ExprPtr expr = node(ExprKind::kGetattr, line, std::move(object));
    expr->name = std::move(name);
    return expr;
  }

  ExprPtr parse_subscript(ExprPtr object) {
    const int line = current().line;
    skip();
    std::vector<ExprPtr> items;
    while (!at_op("]")) {
      if (!items.empty()) expect_op(",");
      items.push_back(parse_subscribed());
    }
    expect_op("]");
    ExprPtr index = items.size() == 1 ? std::move(items[0]) : make(ExprKind::kTuple, line, std::move(items));
    return node(ExprKind::kGetitem, line, std::move(object), std::move(index));
  }

  ExprPtr parse_subscribed() {
    const int line = current().line;
    ExprPtr start, stop, step;
    if (!at_op(":")) {
      start = parse_expression();
      if (!at_op(":")) return start;
    }
    skip();
    const auto at_end = [this] { return at_op("]") || at_op(","); };
    if (!at_op(":") && !at_end()) stop = parse_expression();
    if (skip_op(":") && !at_end()) step = parse_expression();
    return node(ExprKind::kSlice, line, std::move(start), std::move(stop), std::move(step));
  }

  void parse_arguments(Expr& expr) {
    expect_op("(");
    bool first = true;
    while (!at_op(")")) {
      if (!first) {
        expect_op(",");
        if (at_op(")")) break;
      }
      first = false;
      if (at_op("*")) {
        if (expr.star || expr.star_star) error("invalid syntax for function call expression");
        skip();
        expr.star = parse_expression();
      } else if (at_op("**")) {
        if (expr.star_star) error("invalid syntax for function call expression");
        skip();
        expr.star_star = parse_expression();
      } else if (at(TokenKind::kName) && next().kind == TokenKind::kOperator && next().text == "=") {
        if (expr.star_star) error("invalid syntax for function call expression");
        std::string name = take_name();
        skip();
        expr.keywords.emplace_back(std::move(name), parse_expression());
      } else {
        if (expr.star || expr.star_star || !expr.keywords.empty())
          error("invalid syntax for function call expression");
        expr.items.push_back(parse_expression());
      }
    }
    expect_op(")");
    seal(expr);
  }

  ExprPtr parse_call(ExprPtr callee) {
    ExprPtr expr = node(ExprKind::kCall, current().line, std::move(callee));
    parse_arguments(*expr);
    return expr;
  }

  std::string take_dotted_name() {
    std::string name = take_name();
    while (skip_op(".")) name += "." + take_name();
    return name;
  }

  // After the '|'; `input` is null in a filter block.
  ExprPtr parse_filter(ExprPtr input) {
    ExprPtr expr = node(ExprKind::kFilter, current().line, std::move(input));
    expr->name = take_dotted_name();
    if (!conditional_ && !has_filter(expr->name))
      unknown_.emplace_back(expr->line, "no filter named '" + expr->name + "'");
    if (at_op("(")) parse_arguments(*expr);
    return expr;
  }

  ExprPtr parse_test(ExprPtr input) {
    const int line = current().line;
    skip();
    const bool negated = skip_name("not");
    ExprPtr expr = node(ExprKind::kTest, line, std::move(input));
    expr->name = take_dotted_name();
    if (!conditional_ && !has_test(expr->name))
      unknown_.emplace_back(expr->line, "no test named '" + expr->name + "'");
    if (at_op("(")) {
      parse_arguments(*expr);
    } else if (at(TokenKind::kString) || at(TokenKind::kInteger) || at(TokenKind::kFloat) || at_op("[") ||
               at_op("{") ||
               (at(TokenKind::kName) && !at_name("else") && !at_name("or") && !at_name("and"))) {
      if (at_name("is")) error("tests cannot be chained with 'is'");
      const Deeper deeper(*this);
      expr->items.push_back(parse_postfix(parse_primary()));
      seal(*expr);
    }
    return negated ? node(ExprKind::kNot, line, std::move(expr)) : std::move(expr);
  }

  // ---- statements ----

  std::unique_ptr<Stmt> statement(StmtKind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = current().line;
    return stmt;
  }

  // Statements up to a tag whose name is in `ends`, which is left current; with none, up to the end.
  Block parse_body(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    Block body;
    const int begin_line = current().line;
    while (!at(TokenKind::kEnd)) {
      if (at(TokenKind::kData)) {
        auto stmt = statement(StmtKind::kData);
        stmt->data = current().text;
        skip();
        body.push_back(std::move(stmt));
      } else if (at(TokenKind::kVariableBegin)) {
        skip();
        auto stmt = statement(StmtKind::kOutput);
        stmt->expr = parse_tuple(true, false);
        if (!at(TokenKind::kVariableEnd)) error("expected '}}', found " + describe());
        skip();
        body.push_back(std::move(stmt));
      } else {
        skip();  // block begin
        if (at(TokenKind::kName) && std::find(ends.begin(), ends.end(), current().text) != ends.end())
          return body;
        body.push_back(parse_statement());
        expect_block_end();
      }
    }
    if (ends.size() > 0)
      syntax_error(begin_line, "block without '{% " + std::string(*(ends.end() - 1)) + " %}'");
    return body;
  }

  // A body of its own scope: conditional filters are checked at once again.
  Block parse_inner(std::initializer_list<std::string_view> ends) {
    const bool outer = std::exchange(conditional_, false);
    expect_block_end();
    Block body = parse_body(ends);
    conditional_ = outer;
    return body;
  }

  std::unique_ptr<Stmt> parse_statement() {
    if (!at(TokenKind::kName)) error("expected a tag name, found " + describe());
    const std::string tag = current().text;
    if (tag == "if") return parse_if();
    if (tag == "for") return parse_for();
    if (tag == "set") return parse_set();
    if (tag == "macro") return parse_macro();
    if (tag == "call") return parse_call_block();
    if (tag == "filter") return parse_filter_block();
    if (tag == "with") return parse_with();
    if (tag == "generation") return parse_generation();
    if (tag == "print") return parse_print();
    if (tag == "break" || tag == "continue") {
      if (loop_depth_ == 0) error("'" + tag + "' outside a loop");
      auto stmt = statement(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue);
      skip();
      return stmt;
    }
    if (tag == "include" || tag == "import" || tag == "from" || tag == "extends" || tag == "block")
      error("'" + tag + "' is not supported: a chat template is one file");
    error("unknown tag '" + tag + "'");
  }

  std::unique_ptr<Stmt> parse_if() {
    auto stmt = statement(StmtKind::kIf);
    const bool outer = std::exchange(conditional_, true);
    skip();
    while (true) {
      Branch branch;
      branch.test = parse_tuple(false, false);
      expect_block_end();
      branch.body = parse_body({"elif", "else", "endif"});
      stmt->branches.push_back(std::move(branch));
      if (skip_name("elif")) continue;
      if (skip_name("else")) {
        expect_block_end();
        stmt->otherwise = parse_body({"endif"});
      }
      expect_name("endif");
      break;
    }
    conditional_ = outer;
    return stmt;
  }

  std::unique_ptr<Stmt> parse_for() {
    auto stmt = statement(StmtKind::kFor);
    skip();
    stmt->target = parse_target(true, false);
    expect_name("in");
    const bool outer = std::exchange(conditional_, false);
    stmt->expr = parse_tuple(false, false);
    if (skip_name("if")) stmt->filter = parse_expression();
    conditional_ = outer;
    stmt->recursive = skip_name("recursive");
    ++loop_depth_;
    stmt->body = parse_inner({"else", "endfor"});
    --loop_depth_;
    if (skip_name("else")) stmt->otherwise = parse_inner({"endfor"});
    expect_name("endfor");
    return stmt;
  }

  Target parse_target_item(bool with_namespace) {
    if (skip_op("(")) {
      const Deeper deeper(*this);
      Target target = parse_target(false, with_namespace);
      expect_op(")");
      return target;
    }
    Target target;
    target.name = take_name();
    if (target.name == "true" || target.name == "false" || target.name == "none" || target.name == "True" ||
        target.name == "False" || target.name == "None")
      error("cannot assign to '" + target.name + "'");
    if (with_namespace && skip_op(".")) target.attribute = take_name();
    return target;
  }

  Target parse_target(bool for_loop, bool with_namespace) {
    Target first = parse_target_item(with_namespace);
    if (!at_op(",")) return first;
    Target tuple;
    tuple.is_tuple = true;
    tuple.parts.push_back(std::move(first));
    while (skip_op(",")) {
      if (at_op("=") || at_op(")") || at(TokenKind::kBlockEnd) || (for_loop && at_name("in"))) break;
      tuple.parts.push_back(parse_target_item(with_namespace));
    }
    return tuple;
  }

  std::unique_ptr<Stmt> parse_set() {
    auto stmt = statement(StmtKind::kSet);
    skip();
    stmt->target = parse_target(false, true);
    if (skip_op("=")) {
      stmt->expr = parse_tuple(true, false);
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    if (skip_op("|")) {
      stmt->filter = parse_filter(nullptr);
      while (skip_op("|")) stmt->filter = parse_filter(std::move(stmt->filter));
    }
    stmt->body = parse_inner({"endset"});
    expect_name("endset");
    return stmt;
  }

  void parse_signature(MacroNode& macro) {
    expect_op("(");
    while (!at_op(")")) {
      if (!macro.parameters.empty()) expect_op(",");
      Parameter parameter;
      parameter.name = take_name();
      if (skip_op("="))
        parameter.default_value = parse_expression();
      else if (!macro.parameters.empty() && macro.parameters.back().default_value)
        error("parameter without a default after one with a default");
      macro.parameters.push_back(std::move(parameter));
    }
    expect_op(")");
  }

  // A name used in an inner macro is used in the macro around it too.
  static void used_within(MacroNode* outer, const MacroNode& inner) {
    if (outer == nullptr) return;
    outer->uses_caller |= inner.uses_caller;
    outer->uses_varargs |= inner.uses_varargs;
    outer->uses_kwargs |= inner.uses_kwargs;
  }

  void parse_macro_body(MacroNode& macro, std::string_view end) {
    const int outer_loops = std::exchange(loop_depth_, 0);
    macro.body = parse_inner({end});
    loop_depth_ = outer_loops;
    expect_name(end);
  }

  std::unique_ptr<Stmt> parse_macro() {
    auto stmt = statement(StmtKind::kMacro);
    skip();
    stmt->macro = std::make_shared<MacroNode>();
    MacroNode* outer = macro_;
    stmt->macro->name = take_name();
    macro_ = stmt->macro.get();
    parse_signature(*stmt->macro);
    parse_macro_body(*stmt->macro, "endmacro");
    macro_ = outer;
    used_within(outer, *stmt->macro);
    return stmt;
  }

  std::unique_ptr<Stmt> parse_call_block() {
    auto stmt = statement(StmtKind::kCallBlock);
    skip();
    stmt->macro = std::make_shared<MacroNode>();
    stmt->macro->name = "caller";
    if (at_op("(")) parse_signature(*stmt->macro);
    stmt->expr = parse_expression();
    if (stmt->expr->kind != ExprKind::kCall) error("expected a call after 'call'");
    MacroNode* outer = std::exchange(macro_, stmt->macro.get());
    parse_macro_body(*stmt->macro, "endcall");
    macro_ = outer;
    used_within(outer, *stmt->macro);
    return stmt;
  }

  std::unique_ptr<Stmt> parse_filter_block() {
    auto stmt = statement(StmtKind::kFilterBlock);
    skip();
    stmt->filter = parse_filter(nullptr);
    while (skip_op("|")) stmt->filter = parse_filter(std::move(stmt->filter));
    stmt->body = parse_inner({"endfilter"});
    expect_name("endfilter");
    return stmt;
  }

  std::unique_ptr<Stmt> parse_with() {
    auto stmt = statement(StmtKind::kWith);
    skip();
    while (!at(TokenKind::kBlockEnd)) {
      if (!stmt->assignments.empty()) expect_op(",");
      Target target = parse_target(false, false);
      expect_op("=");
      stmt->assignments.emplace_back(std::move(target), parse_expression());
    }
    stmt->body = parse_inner({"endwith"});
    expect_name("endwith");
    return stmt;
  }

  std::unique_ptr<Stmt> parse_generation() {
    auto stmt = statement(StmtKind::kGeneration);
    skip();
    const int outer_loops = std::exchange(loop_depth_, 0);
    stmt->body = parse_inner({"endgeneration"});
    loop_depth_ = outer_loops;
    expect_name("endgeneration");
    return stmt;
  }

  std::unique_ptr<Stmt> parse_print() {
    auto stmt = statement(StmtKind::kOutput);
    skip();
    std::vector<ExprPtr> items;
    while (!at(TokenKind::kBlockEnd)) {
      if (!items.empty()) expect_op(",");
      items.push_back(parse_expression());
    }
    stmt->expr = make(ExprKind::kConcat, stmt->line, std::move(items));
    return stmt;
  }
};

}  // namespace

Block parse(std::string_view source, int max_depth) { return Parser(source, max_depth).parse_template(); }

}  // namespace hlwq::jinja
