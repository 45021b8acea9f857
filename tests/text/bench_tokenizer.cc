// SPDX-License-Identifier: Apache-2.0
// Prints how fast the tokenizer loads and encodes: bench_tokenizer MODEL_FOLDER [FILE…]
// Without files it encodes a few generated texts; MB is 10^6 bytes; one thread, its
// processor time, best of five.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace {

/// Processor time of this thread, so that other work on the machine disturbs less.
double now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// `bytes` of words drawn from a list by a Zipf-like law, so that few words make most of the text.
std::string words(std::vector<std::string> list, const char* separator, size_t bytes) {
  std::mt19937 random(1);
  std::string text;
  while (text.size() < bytes) {
    const double uniform = static_cast<double>(random()) / 4294967296.0;
    text += list[static_cast<size_t>(uniform * uniform * static_cast<double>(list.size()))];
    text += separator;
  }
  return text;
}

std::vector<std::pair<std::string, std::string>> generated() {
  constexpr size_t kBytes = 1000000;
  std::vector<std::pair<std::string, std::string>> texts;
  texts.emplace_back("english words",
                     words({"the", "of", "and", "language", "model", "attention", "is", "computed",
                            "streaming", "over", "blocks", "which", "remember,", "therefore",
                            "nevertheless.", "Thousands", "people", "water", "running"},
                           " ", kBytes));
  texts.emplace_back("code", words({"for (int i = 0; i < n; ++i) {\n", "  sum += a[i] * b[i];\n",
                                    "}\n", "return std::move(result);\n", "#include <vector>\n",
                                    "const auto x = find(key);\n", "\n", "// a comment about it\n"},
                                   "", kBytes));
  texts.emplace_back(
      "chinese", words({"流式注意力", "使用", "在线", "的", "模型", "语言", "计算", "我们", "可以",
                        "，", "。", "今天天气", "很好", "因此", "研究", "方法", "提出了一种"},
                       "", kBytes));
  for (const char* one : {"a", " ", "\n", "7", "!", "的", "\xCC\x81"}) {
    std::string text;
    while (text.size() < kBytes) text += one;
    texts.emplace_back("1 MB of one character", text);
  }
  return texts;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_tokenizer MODEL_FOLDER [FILE…]\n");
    return 2;
  }
  const double start = now();
  const rill::Tokenizer tokenizer = rill::Tokenizer::load(argv[1]);
  std::printf("load %.0f ms\n", 1e3 * (now() - start));
  auto texts = generated();
  if (argc > 2) texts.clear();
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    texts.emplace_back(argv[i], std::string(std::istreambuf_iterator<char>(file), {}));
  }
  for (const auto& [name, text] : texts) {
    double best = 1e30;
    size_t tokens = 0;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const double begin = now();
      tokens = tokenizer.encode(text).size();
      best = std::min(best, now() - begin);
    }
    std::printf("%-24s %8.1f MB/s  %9zu bytes  %8zu tokens\n", name.c_str(),
                static_cast<double>(text.size()) / best / 1e6, text.size(), tokens);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
