// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include "commands.h"

int main(int argc, char** argv) {
  using namespace rill::apps;
  return run_program(
      argc, argv, "Rill runs Qwen3 language models on CPUs, with the same bits everywhere.",
      [](Program& program) {
        program.app.require_subcommand(1);
        program.app.footer(
            "Each command has its own --help.\nExample:\n  rill chat models/rill-demo");
        add_run_command(program);
        add_chat_command(program);
        add_info_command(program);
        add_plan_command(program);
        add_logits_command(program);
        add_verify_command(program);
        add_text_commands(program);
        add_accuracy_command(program);
        add_bench_command(program);
        add_bench_attention_command(program);
      });
}
