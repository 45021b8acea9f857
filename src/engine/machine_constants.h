// SPDX-License-Identifier: Apache-2.0
// What a node and the links between ranks can do: measured by `rill bench --comm`, read by
// `rill plan --constants`.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/ceilings.h"

namespace rill {

/// Between ranks of a node, or of different nodes. Bandwidths are of a whole node whose ranks all
/// send at once.
struct LinkConstants {
  double gather_latency = 0;      // seconds of an all_gather of few bytes between two
  double exchange_latency = 0;    // seconds of an exchange of two short messages
  double message = 0;             // seconds of each further message of an exchange
  double gather_bandwidth = 0;    // bytes/s sent, each receiver counted
  double exchange_bandwidth = 0;  // bytes/s sent
  bool assumed = false;           // not measured
};

struct MachineConstants {
  std::string name;           // where they come from
  std::string isa;            // "avx512vnni", ...: decides which peak bounds a product
  size_t numa_nodes = 1;      // of a node
  Ceilings node;              // of all cores of a node together
  Ceilings part_reached;      // of each ceiling, 0 to 1: what Rill reaches of it
  LinkConstants here, there;  // within a node, between nodes
};

/// A node of two Xeon Gold 6230R: 36 GB/s measured per socket, peaks of 26 cores at 2.0 GHz, links
/// as stated in docs/scaling.md. What is assumed where nothing was measured.
const MachineConstants& default_constants();

/// Without links that are assumed.
nlohmann::ordered_json to_json(const MachineConstants& constants);
/// Links that are not there are those of default_constants(). Throws rill::Error naming `file`,
/// what was found and what was expected.
MachineConstants constants_from_json(const std::string& text, const std::string& file);

}  // namespace rill
