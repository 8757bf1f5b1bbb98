// The syntax tree of a template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace hlwq::jinja {

enum class ExprKind : uint8_t {
  kConst,    // value
  kName,     // name
  kList,     // items
  kTuple,    // items
  kDict,     // items: key, value, key, value...
  kGetattr,  // items[0] . name
  kGetitem,  // items[0] [ items[1] ]
  kSlice,    // items: start, stop, step (null where absent)
  kCall,     // items[0] ( items[1..], keywords, star, star_star )
  kFilter,   // items[0] | name ( items[1..] ... ); items[0] is null in a filter block
  kTest,     // items[0] is name ( items[1..] ... )
  kNot,      // items[0]
  kNegate,
  kPlus,
  kBinary,   // items[0] op items[1]
  kConcat,   // items
  kCompare,  // items[0] operators[0] items[1] operators[1] ...
  kAnd,
  kOr,
  kCondition,  // items[0] if items[1] else items[2] (null where absent)
};

enum class Operator : uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  ExprKind kind;
  int line;
  int depth = 1;  ///< of the tree below; bounded by the parser
  std::string name;
  Value value;
  Operator op = Operator::kAdd;
  std::vector<Operator> operators;
  std::vector<ExprPtr> items;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
  ExprPtr star, star_star;
};

/// A name, a namespace's attribute, or a tuple of targets.
struct Target {
  std::string name;
  std::string attribute;
  std::vector<Target> parts;
  bool is_tuple = false;
};

enum class StmtKind : uint8_t {
  kData,
  kOutput,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kGeneration,
  kBreak,
  kContinue
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

struct Branch {
  ExprPtr test;
  Block body;
};

struct Parameter {
  std::string name;
  ExprPtr default_value;
};

/// The signature and body of a macro or of a call block.
struct MacroNode {
  std::string name;
  std::vector<Parameter> parameters;
  Block body;
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
};

struct Stmt {
  StmtKind kind;
  int line;
  std::string data;                                     // kData
  ExprPtr expr;                                         // output, iterable, set value, call, filter
  ExprPtr filter;                                       // for ... if; the filter chain of a set block
  bool recursive = false;                               // for
  Target target;                                        // for, set
  std::vector<Branch> branches;                         // if
  std::vector<std::pair<Target, ExprPtr>> assignments;  // with
  Block body, otherwise;
  std::shared_ptr<MacroNode> macro;
};

/// Throws Error(kInvalidFile) naming the line. Nesting is limited to max_depth.
Block parse(std::string_view source, int max_depth);

/// Whether a filter / test of this name exists.
bool has_filter(const std::string& name);
bool has_test(const std::string& name);

}  // namespace hlwq::jinja
