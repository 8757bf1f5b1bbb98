#include "task_scores.h"

#include "common.h"
#include "python_command.h"

namespace hlwq::cli {

TaskScores run_tasks(const TaskRequest& request) {
  OrderedJson tasks = OrderedJson::array();
  const std::string list = request.tasks + ",";
  for (size_t begin = 0, end = 0; (end = list.find(',', begin)) != std::string::npos; begin = end + 1)
    if (end > begin) tasks.push_back(list.substr(begin, end - begin));
  if (tasks.empty()) throw UsageError("--tasks wants names of tasks: hellaswag,arc_challenge");
  OrderedJson json{{"model", request.model}, {"tasks", std::move(tasks)}, {"options", request.options}};
  if (request.fewshot) json["fewshot"] = *request.fewshot;
  if (request.limit) json["limit"] = *request.limit;

  const PythonPackage package("--tasks", "'.[eval]'");
  const PythonPackage::Outcome outcome = package.run({"tasks", json_line(json)});
  if (outcome.exit_code != 0) return {outcome.exit_code, nullptr};
  OrderedJson answer = parse_ordered_json(outcome.output, "the scores");
  return {0, std::move(answer["tasks"])};
}

Table task_table(const OrderedJson& scores) {
  Table table({"task", "metric", "value", "standard error", "examples", "questions"});
  const auto count = [](const OrderedJson& n) {
    return n.is_number_integer() ? format_count(n.get<uint64_t>()) : std::string("");
  };
  for (const OrderedJson& s : scores) {
    const std::string filter = s["filter"].get<std::string>();
    table.add({s["task"].get<std::string>(),
               s["metric"].get<std::string>() + (filter == "none" ? "" : ", " + filter),
               fixed(s["value"].get<double>(), 4),
               s["stderr"].is_null() ? "" : fixed(s["stderr"].get<double>(), 4), count(s["fewshot"]),
               count(s["samples"])});
  }
  return table;
}

}  // namespace hlwq::cli
