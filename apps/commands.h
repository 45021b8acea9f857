// SPDX-License-Identifier: Apache-2.0
// The subcommands of `rill`, one file each (cmd_*.cc).
#pragma once
#include "program.h"

namespace rill::apps {

void add_run_command(Program& program);
void add_chat_command(Program& program);
void add_info_command(Program& program);
void add_plan_command(Program& program);
void add_logits_command(Program& program);
void add_verify_command(Program& program);
void add_text_commands(Program& program);  // tokenize, detokenize, template
void add_accuracy_command(Program& program);
void add_bench_command(Program& program);
void add_bench_attention_command(Program& program);

}  // namespace rill::apps
