// SPDX-License-Identifier: Apache-2.0
#include "engine/machine_constants.h"

#include "base/error.h"
#include "base/json.h"

namespace rill {
namespace {

template <class Struct>
struct Field {
  const char* name;
  double Struct::*value;
};

constexpr Field<Ceilings> kCeilings[] = {
    {"read_bandwidth", &Ceilings::bandwidth}, {"fma", &Ceilings::fma},
    {"vdpbf16ps", &Ceilings::vdpbf16ps},      {"vnni", &Ceilings::vnni},
    {"maddubs", &Ceilings::maddubs},          {"amx_bf16", &Ceilings::amx_bf16},
    {"amx_int8", &Ceilings::amx_int8}};
constexpr Field<LinkConstants> kLinks[] = {
    {"gather_latency", &LinkConstants::gather_latency},
    {"exchange_latency", &LinkConstants::exchange_latency},
    {"message", &LinkConstants::message},
    {"gather_bandwidth", &LinkConstants::gather_bandwidth},
    {"exchange_bandwidth", &LinkConstants::exchange_bandwidth}};

template <class Fields, class Struct>
nlohmann::ordered_json write(const Fields& fields, const Struct& values) {
  nlohmann::ordered_json json;
  for (const auto& field : fields) json[field.name] = values.*field.value;
  return json;
}

template <class Fields, class Struct>
void read(const JsonObject& parent, const char* key, const Fields& fields, Struct& values) {
  const auto object = parent.object(key);
  if (!object) parent.wrong(key, "an object of numbers");
  for (const auto& field : fields) {
    values.*field.value = object->number(field.name);
    if (values.*field.value < 0) object->wrong(field.name, "a number from 0 on");
  }
}

// Two sockets of 26 cores at 2.0 GHz with two 512-bit units each.
MachineConstants gold_6230r() {
  constexpr double kCycles = 2 * 26 * 2.0e9;
  MachineConstants c;
  c.name = "2 x Xeon Gold 6230R, 100 Gbit/s between nodes (assumed)";
  c.isa = "avx512vnni";
  c.numa_nodes = 2;
  c.node.bandwidth = 2 * 36e9;
  c.node.fma = kCycles * 64;
  c.node.vnni = kCycles * 256;
  c.node.maddubs = kCycles * 128;
  // docs/performance.md; the two of AMX are what `rill bench -p 512 -n 0` reaches on a Granite
  // Rapids with --compute bf16x32, and its linear layers (--profile) with --weights int8.
  c.part_reached = {.fma = 0.76,
                    .vdpbf16ps = 0.88,
                    .vnni = 0.58,
                    .maddubs = 0.58,
                    .bandwidth = 0.85,
                    .amx_bf16 = 0.2,
                    .amx_int8 = 0.085};
  c.here = {2e-6, 2e-6, 0.3e-6, 20e9, 20e9, true};
  c.there = {3e-6, 3e-6, 0.5e-6, 12.5e9, 12.5e9, true};
  return c;
}

}  // namespace

const MachineConstants& default_constants() {
  static const MachineConstants constants = gold_6230r();
  return constants;
}

nlohmann::ordered_json to_json(const MachineConstants& c) {
  nlohmann::ordered_json json;
  json["name"] = c.name;
  json["isa"] = c.isa;
  json["numa_nodes"] = c.numa_nodes;
  json["node"] = write(kCeilings, c.node);
  json["part_reached"] = write(kCeilings, c.part_reached);
  if (!c.here.assumed) json["within_a_node"] = write(kLinks, c.here);
  if (!c.there.assumed) json["between_nodes"] = write(kLinks, c.there);
  return json;
}

MachineConstants constants_from_json(const std::string& text, const std::string& file) {
  const Json json = parse_json(text, file);
  const JsonObject object(json, file, "", "write it with `rill bench --comm -o json`");
  MachineConstants c;
  c.name = object.string("name", file);
  c.isa = object.string("isa", "");
  c.numa_nodes = object.size("numa_nodes", 1, 1024);
  read(object, "node", kCeilings, c.node);
  read(object, "part_reached", kCeilings, c.part_reached);
  c.here = default_constants().here;
  c.there = default_constants().there;
  if (object.has("within_a_node")) read(object, "within_a_node", kLinks, c.here = {});
  if (object.has("between_nodes")) read(object, "between_nodes", kLinks, c.there = {});
  const bool known = c.isa == "scalar" || c.isa == "avx2" || c.isa == "avx512" ||
                     c.isa == "avx512vnni" || c.isa == "avx512bf16" || c.isa == "amx";
  if (!known) object.wrong("isa", "scalar, avx2, avx512, avx512vnni, avx512bf16 or amx");
  return c;
}

}  // namespace rill
