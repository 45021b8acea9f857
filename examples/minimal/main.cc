// SPDX-License-Identifier: Apache-2.0
// Loads a model, answers a question as it streams, and calls the attention by itself.
//   minimal FOLDER "question"
#include <cstdio>
#include <string>
#include <vector>

#include "rill/rill.h"

namespace {

void answer(const char* folder, const char* question) {
  rill::EngineOptions options;
  options.arithmetic.attention = rill::AttentionType::STREAMING;
  rill::Engine engine = rill::Engine::load(folder, options);

  rill::GenerateOptions generate;
  generate.sampling = engine.default_sampling();
  generate.max_tokens = 100;
  const std::vector<rill::Message> messages = {{"user", question}};
  const rill::GenerateResult result = engine.chat(messages, generate, [](std::string_view text) {
    std::printf("%.*s", static_cast<int>(text.size()), text.data());
    std::fflush(stdout);
    return true;  // false would stop the answer
  });
  std::printf("\n%zu tokens; %s\n", result.tokens.size(), engine.describe().c_str());

  const std::vector<int32_t> ids = engine.tokenize(question);
  const std::vector<float> logits = engine.logits(ids);  // [ids][vocabulary]
  std::printf("%zu rows of %zu logits\n", ids.size(), logits.size() / ids.size());
}

/// Two queries over two keys of one head: the first query sees the first key alone.
void attend() {
  const std::vector<float> q = {1, 0, 0, 1}, k = {1, 0, 0, 1}, v = {1, 2, 3, 4};
  std::vector<float> out(4);
  rill::AttentionProblem problem{};
  problem.heads = problem.kv_heads = 1;
  problem.head_dim = problem.tokens = problem.kv_tokens = 2;
  problem.q = q.data();
  problem.k = k.data();
  problem.v = v.data();
  rill::attention(problem, rill::ArithmeticOptions{}, out.data());
  std::printf("attention: %.3f %.3f, %.3f %.3f\n", out[0], out[1], out[2], out[3]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: minimal FOLDER \"question\"\n");
    return 2;
  }
  try {
    answer(argv[1], argv[2]);
    attend();
  } catch (const rill::Error& error) {  // one sentence for the user
    std::fprintf(stderr, "minimal: %s\n", error.what());
    return 1;
  }
  return 0;
}
