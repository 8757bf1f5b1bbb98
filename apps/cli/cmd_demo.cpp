// hlwq demo: the page in the browser, which is written in Python.
#include "args.h"
#include "python_command.h"

namespace hlwq::cli {
namespace {

class Demo : public Command {
 public:
  std::string name() const override { return "demo"; }
  std::string summary() const override {
    return "A page in the browser: chat, images, memory (needs Python)";
  }
  std::string examples() const override { return ""; }
  void declare(Args& args) override { args.rest(arguments_); }  // the page's own parser knows its options

  int run() override {
    std::vector<std::string> all = {"demo"};
    all.insert(all.end(), arguments_.begin(), arguments_.end());
    PythonPackage("hlwq demo", "'.[demo]'").become(all);
  }

 private:
  std::vector<std::string> arguments_;
};

}  // namespace

std::unique_ptr<Command> make_demo() { return std::make_unique<Demo>(); }

}  // namespace hlwq::cli
