// SPDX-License-Identifier: Apache-2.0
// Few cases in which every value of every axis meets every value of every other one.
#pragma once
#include <cstddef>
#include <vector>

namespace rill {

/// Cases [cases][axes] of values below sizes[axis]: each pair of values of two axes stands together
/// in at least one. Greedy, as AETG (Cohen, Dalal, Fredman, Patton 1997) without its random tries:
/// a case begins with the first pair that has not met, and each other axis takes the value that
/// brings the most new pairs.
inline std::vector<std::vector<size_t>> pairwise(const std::vector<size_t>& sizes) {
  const size_t axes = sizes.size();
  std::vector<size_t> first(axes);  // of an axis among all values of all axes
  size_t values = 0;
  for (size_t axis = 0; axis < axes; ++axis) {
    first[axis] = values;
    values += sizes[axis];
  }
  std::vector<std::vector<bool>> met(values, std::vector<bool>(values, false));
  std::vector<std::vector<size_t>> cases;
  for (size_t a = 0; a < axes; ++a)
    for (size_t b = a + 1; b < axes; ++b)
      for (size_t pair = 0; pair < sizes[a] * sizes[b]; ++pair) {
        const size_t x = pair / sizes[b], y = pair % sizes[b];
        if (met[first[a] + x][first[b] + y]) continue;
        constexpr size_t kOpen = SIZE_MAX;
        std::vector<size_t> chosen(axes, kOpen);
        chosen[a] = x;
        chosen[b] = y;
        for (size_t axis = 0; axis < axes; ++axis) {
          if (chosen[axis] != kOpen) continue;
          size_t best = 0, most = 0;
          for (size_t i = 0; i < sizes[axis]; ++i) {
            const size_t value = (i + cases.size()) % sizes[axis];  // ties take turns
            size_t fresh = 0;
            for (size_t other = 0; other < axes; ++other)
              if (chosen[other] != kOpen && !met[first[axis] + value][first[other] + chosen[other]])
                ++fresh;
            if (i > 0 && fresh <= most) continue;
            most = fresh;
            best = value;
          }
          chosen[axis] = best;
        }
        for (size_t i = 0; i < axes; ++i)
          for (size_t j = 0; j < axes; ++j) met[first[i] + chosen[i]][first[j] + chosen[j]] = true;
        cases.push_back(chosen);
      }
  return cases;
}

}  // namespace rill
