// hlwq: the command line.
#include <cstdio>
#include <exception>
#include <new>

#include "args.h"
#include "hlwq/error.h"
#include "terminal.h"

namespace {

int complain(std::string message, int code) {
  for (char& c : message)
    if (c == '\n' || c == '\r') c = ' ';
  std::fprintf(stderr, "hlwq: %s\n", hlwq::cli::printable(message).c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace hlwq::cli;
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(make_quantize());
  commands.push_back(make_export());
  commands.push_back(make_run());
  commands.push_back(make_chat());
  commands.push_back(make_info());
  commands.push_back(make_bench());
  commands.push_back(make_demo());
  commands.push_back(make_tokenize());
  commands.push_back(make_template());
  commands.push_back(make_pull());
  int code = kFailed;
  try {
    Command* command = parse_command_line(argc, argv, commands, code);
    if (command) {
      catch_interrupts();
      code = command->run();
    }
    if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
      std::perror("hlwq: cannot write to standard output");
      code = kFailed;
    }
    return code;
  } catch (const UsageError& e) {
    return complain(e.what(), kWrongUse);
  } catch (const hlwq::Error& e) {
    return complain(e.what(), kFailed);
  } catch (const std::bad_alloc&) {
    return complain("out of memory", kFailed);
  } catch (const std::exception& e) {
    return complain(e.what(), kFailed);
  }
}
