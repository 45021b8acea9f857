// SPDX-License-Identifier: Apache-2.0
#include "model/profile.h"

namespace rill {

const char* to_string(Operation operation) {
  switch (operation) {
    case Operation::WAITING:
      return "waiting";
    case Operation::EMBEDDING:
      return "embedding";
    case Operation::NORMS:
      return "norms";
    case Operation::QKV:
      return "qkv";
    case Operation::HEADS:
      return "heads";
    case Operation::ATTENTION:
      return "attention";
    case Operation::O:
      return "o";
    case Operation::GATE_UP:
      return "gate_up";
    case Operation::DOWN:
      return "down";
    case Operation::HEAD:
      return "head";
    case Operation::REST:
      return "rest";
  }
  return "";
}

}  // namespace rill
