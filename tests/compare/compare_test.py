# SPDX-License-Identifier: Apache-2.0
"""bench/compare without network and engines: what recorded outputs are read as, what a run keeps, how
rows are held against their targets, and what the report says."""
import json
import pathlib
import sys
import tempfile
import types
import unittest

if sys.version_info < (3, 10):
    print("bench/compare needs Python 3.10 or newer")
    sys.exit(77)
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "bench/compare"))
sys.dont_write_bytecode = True

import engines  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import targets  # noqa: E402

AVX2, AVX512, AMX = 0, 1, 2
MACHINE = {"cpu": "Test CPU", "cores": 2, "flags": ["avx2"], "caches": "L2 1 MiB", "memory": "8 GiB",
           "kernel": "6.1", "compiler": "c++ 12", "threads": 2}
PATHS = engines.Paths(*map(pathlib.Path, ("/p/rill", "/m", "/l/llama-bench", "/i/llama-bench", "/o/python",
                                          "/t/python")))
# As llama-bench 0c1e570 printed it, most fields left out.
LLAMA = """[{"build_commit": "0c1e570", "n_prompt": 512, "n_gen": 0, "avg_ts": 459.452372,
             "samples_ts": [ 459.452, 461.0, 470.5 ]}]"""
OPENVINO = ('a warning\n{"first_token_at": 112.5, "openvino": "2026.4.1", "tests": [{"prompt": 512, '
            '"generated": 1, "prompt_ts": [900.6, 910.0, 905.0], "generated_ts": [25.3, 25, 25]}, '
            '{"prompt": 1, "generated": 64, "prompt_ts": [33.4], "generated_ts": [31.5]}]}\n')
RILL = {"samples_ts": [800.0, 786.0], "pct_of_ceiling": 73.2, "ceiling": "vdpbf16ps", "gflops": 738.3,
        "gbps": 1.92, "isa": "avx512bf16", "build_commit": "4bd7c19", "model_size": 1192135096,
        "peak_fma": 540.5, "peak_vdpbf16ps": 1015.3, "peak_vnni": 2174.0, "peak_maddubs": 1637.7,
        "peak_amx_bf16": 0.0, "peak_amx_int8": 0.0, "peak_bandwidth": 85.4}


def scope(**changes):
    values = {"threads": 2, "depths": [0, 4096, 16384, 32768], "deep_weights": ["16"],
              "attention": [4096, 8192], "peers": list(engines.PEERS), "fill": []}
    return engines.Scope(**{**values, **changes})


def row(engine, column, value, weights="16", variant="", number=0, **detail):
    return {"time": "2026-01-01T00:00:00+00:00", "round": number, "engine": engine, "variant": variant,
            "weights": weights, "column": column, "value": value, "command": ["/x/y/llama-bench", "-p"],
            "peak_memory": 0, "detail": {"pct_of_ceiling": 0, "peak_bandwidth": 50, "model_size": 1, **{
                f"peak_{name}": 1 for name in ("fma", "vdpbf16ps", "vnni", "maddubs", "amx_bf16",
                                               "amx_int8")}, **detail}}


class Parsers(unittest.TestCase):
    def test_llama_bench_gives_the_median_of_its_samples(self):
        found = engines.parse_llama_bench("pp512")(LLAMA, {})
        self.assertEqual(found["pp512"]["value"], 461.0)
        self.assertEqual(found["pp512"]["detail"]["build_commit"], "0c1e570")

    def test_openvino_gives_two_columns_of_one_process(self):
        found = engines.parse_openvino(["pp512", "tg@0"])(OPENVINO, {})
        self.assertEqual({name: entry["value"] for name, entry in found.items()},
                         {"pp512": 905.0, "tg@0": 31.5})

    def test_openvino_tells_its_first_token_on_the_parents_clock(self):
        found = engines.parse_openvino(["first-token"])(OPENVINO, {"started": 100.0})
        self.assertEqual(found["first-token"]["value"], 12.5)

    def test_rill_keeps_percentage_and_ceilings(self):
        found = engines.parse_rill_bench("pp512")(json.dumps([RILL]), {})["pp512"]
        self.assertEqual(found["value"], 793)
        self.assertEqual(found["detail"]["pct_of_ceiling"], 73.2)
        self.assertEqual(found["detail"]["peak_fma"], 540.5)


    def test_attention_has_a_column_for_each_length(self):
        rows = [{"n_tokens": n, "gflops": n / 10, "pct_of_ceiling": 80.5} for n in (4096, 8192)]
        found = engines.parse_rill_attention("bf16")(json.dumps(rows), {})
        self.assertEqual(found["attention-bf16@8192"]["value"], 819.2)
        self.assertEqual(found["attention-bf16@4096"]["detail"]["pct_of_ceiling"], 80.5)


class Plan(unittest.TestCase):
    def test_every_asked_ratio_has_jobs_of_all_engines(self):
        jobs = [job for station in engines.stations(PATHS, scope()) for job in station]
        for weights, column in targets.RATIOS:
            names = {job.engine for job in jobs if job.weights == weights and column in job.columns or
                     (job.engine == "OpenVINO GenAI" and column == "tg@4096" and
                      "pp4096" in job.columns)}
            self.assertEqual(names, {"Rill", *engines.PEERS}, (weights, column))

    def test_peers_stop_at_16384_and_there_only_run_the_weights_that_were_asked_for(self):
        jobs = [job for station in engines.stations(PATHS, scope()) for job in station]
        deep = {(job.engine, job.weights) for job in jobs if "tg@16384" in job.columns}
        self.assertNotIn(("llama.cpp", "8"), deep)
        self.assertIn(("llama.cpp", "16"), deep)
        self.assertEqual({job.engine for job in jobs if "tg@32768" in job.columns}, {"Rill"})

    def test_only_the_columns_that_are_asked_for(self):
        plan = list(engines.stations(PATHS, scope()))
        picked = engines.only(plan, ["pp512", "memory"])
        columns = {column for jobs in picked for job in jobs for column in job.columns}
        self.assertTrue({"pp512", "memory"} <= columns)
        self.assertNotIn("tg@4096", columns)
        self.assertTrue(all(picked))
        with self.assertRaisesRegex(SystemExit, "no engine here yields pp5; there are .*pp512"):
            engines.only(plan, ["pp5"])

    def test_long_jobs_of_peers_run_in_fewer_rounds(self):
        jobs = [job for station in engines.stations(PATHS, scope(long_rounds=1)) for job in station]
        few = {(job.engine, job.columns[0]) for job in jobs if job.rounds == 1}
        self.assertIn(("ik_llama.cpp", "tg@16384"), few)
        self.assertIn(("PyTorch", "attention-bf16@4096"), few)
        self.assertFalse({engine for engine, _ in few} & {"Rill"})
        self.assertFalse({column for _, column in few} & {"pp512", "tg@4096"})

    def test_starts_are_warm_and_nothing_else_runs_twice(self):
        jobs = [job for station in engines.stations(PATHS, scope()) for job in station]
        twice = [job for job in jobs if job.starts == 2]
        self.assertEqual({job.engine for job in twice}, {"Rill", *engines.PEERS})
        self.assertTrue(all(("first-token" in job.columns) == (job in twice) for job in jobs))

    def test_with_amx_both_arithmetics_run(self):
        for matrix, computes in ((False, {""}), (True, {"", "bf16x32"})):
            jobs = [job for station in engines.stations(PATHS, scope(matrix=matrix)) for job in station]
            own = {job.variant for job in jobs if job.engine == "Rill"}
            self.assertEqual(own - {engines.RILL_SMALL_KV}, computes)

    def test_behind_a_context_the_small_cache_runs_too(self):
        jobs = [job for station in engines.stations(PATHS, scope()) for job in station]
        small = [job for job in jobs if job.variant == engines.RILL_SMALL_KV]
        self.assertEqual({column for job in small for column in job.columns},
                         {"tg@4096", "tg@16384", "tg@32768"})
        self.assertEqual({job.weights for job in small}, {"16", "8", "4"})
        self.assertTrue(all(job.command[job.command.index("--kv") + 1] == "int8" for job in small))

    def test_an_engine_that_is_not_there_is_left_out(self):
        paths = engines.Paths(PATHS.rill, PATHS.models, None, None, None, None)
        jobs = [job for station in engines.stations(paths, scope()) for job in station]
        self.assertEqual({job.engine for job in jobs}, {"Rill"})

    def test_ik_fills_its_cache_by_a_prompt_and_llama_by_a_depth(self):
        (llama, *_), (ik, *_) = (list(make(PATHS, "8", "tg@4096", 2))
                                 for make in (engines.llama_jobs, engines.ik_jobs))
        self.assertIn("-d", llama.command)
        self.assertIn("4096,32", ik.command)


class Measuring(unittest.TestCase):
    def run_plan(self, scripts, rounds, prefix=()):
        """`scripts`: {variant: shell command that prints a number}."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        results = measure.Results(pathlib.Path(folder.name) / "results.jsonl")
        jobs = [engines.Job("engine", variant, "16", ["pp512"], ["sh", "-c", script],
                            lambda out, _: {"pp512": {"value": float(out)}})
                for variant, script in scripts.items()]
        measure.run_rounds([jobs], rounds, list(prefix), 20, results)
        return results

    def test_engines_take_turns_and_hopeless_variants_run_once(self):
        results = self.run_plan({"good": "echo 100", "close": "echo 90", "bad": "echo 50"}, 3)
        order = [(entry["round"], entry["variant"]) for entry in results.rows]
        self.assertEqual(order, [(0, "good"), (0, "close"), (0, "bad"), (1, "close"), (1, "good"),
                                 (2, "good"), (2, "close")])

    def test_a_job_of_fewer_rounds_ends_early(self):
        with tempfile.TemporaryDirectory() as folder:
            results = measure.Results(pathlib.Path(folder) / "results.jsonl")
            job = engines.Job("engine", "", "16", ["pp512"], ["echo", "1"],
                              lambda out, _: {"pp512": {"value": float(out)}}, rounds=2)
            measure.run_rounds([[job]], 3, [], 20, results)
        self.assertEqual([entry["round"] for entry in results.rows], [0, 1])

    def test_what_is_there_is_not_measured_again(self):
        results = self.run_plan({"a": "echo 1"}, 1)
        again = measure.Results(results.path)
        job = engines.Job("engine", "a", "16", ["pp512"], ["false"], None)
        measure.run_rounds([[job]], 1, [], 20, again)
        self.assertEqual(len(again.rows), 1)

    def test_failures_are_kept_with_their_last_word_and_tried_twice(self):
        results = self.run_plan({"a": "echo first >&2; echo last >&2; exit 3", "b": "echo words"}, 1)
        self.assertEqual([entry["value"] for entry in results.rows], [None] * 4)
        self.assertEqual(results.rows[0]["error"], "last")
        self.assertIn("not understood", results.rows[2]["error"])

    def test_time_and_memory_are_the_commands_not_the_prefixs(self):
        with tempfile.TemporaryDirectory() as folder:
            wrapper = pathlib.Path(folder) / "wrapper"
            wrapper.write_text('#!/bin/sh\nsleep 1\n"$@"\n')
            wrapper.chmod(0o755)
            done, out, _ = measure.run_command(["echo", "x"], [str(wrapper)], 20)
        self.assertEqual((done["status"], out), (0, "x\n"))
        self.assertLess(done["seconds"], 0.9)
        self.assertLess(done["peak_memory"], 64 << 20)

    def test_the_last_of_several_starts_counts(self):
        with tempfile.TemporaryDirectory() as folder:
            once = f"test -e {folder}/begun || sleep 1; touch {folder}/begun; echo x"
            done, out, _ = measure.run_command(["sh", "-c", once], [], 20, 2)
            self.assertEqual(out, "x\nx\n")
            self.assertLess(done["seconds"], 0.9)
            done, out, _ = measure.run_command(["sh", "-c", "echo x; exit 3"], [], 20, 2)
            self.assertEqual((done["status"], out), (3, "x\n"))

    def test_a_command_that_takes_too_long_is_ended(self):
        done, _, _ = measure.run_command(["sleep", "30"], [], 0.2)
        self.assertNotEqual(done["status"], 0)
        self.assertLess(done["seconds"], 20)


class Targets(unittest.TestCase):
    def state(self, rows, key, kind):
        states = report.state_of_rows(targets.Table(rows), kind)
        return states[key][2], states[key][1]

    def test_kind_of_machine(self):
        self.assertEqual(targets.kind_of(["avx2", "avx512f", "avx512_vnni", "avx512_bf16"]), AVX512)
        self.assertEqual(targets.kind_of(["avx2", "avx512f", "avx512_vnni"]), AVX2)

        with_amx = ["avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"]
        self.assertEqual(targets.kind_of(with_amx), AMX)

    def test_a_line_has_a_unit_and_a_target_for_each_kind(self):
        for entry in targets.ROWS:
            self.assertEqual((len(entry.units), len(entry.targets)), (3, 3), entry.key)

    def test_lines_of_other_kinds_are_left_out(self):
        rows = [row("Rill", "pp512", 1, variant="bf16x32", pct_of_ceiling=60)]
        self.assertEqual(self.state(rows, "prefill-512-bf16x32", AMX)[0], "reached")
        self.assertNotIn("prefill-512-bf16x32", report.state_of_rows(targets.Table(rows), AVX512))

    def test_the_median_over_rounds_decides(self):
        rows = [row("Rill", "pp512", 1, number=i, pct_of_ceiling=percent)
                for i, percent in enumerate((80, 84.9, 99))]
        self.assertEqual(self.state(rows, "prefill-512-bf16", AVX512)[0], "short")
        self.assertEqual(self.state(rows, "prefill-512-bf16", AVX2)[0], "reached")
        self.assertEqual(self.state([], "prefill-512-bf16", AVX2)[0], "not measured")

    def test_without_vnni_int8_is_held_to_the_peak_of_fma(self):
        rows = [row("Rill", "pp512", 1, "8", pct_of_ceiling=60, gflops=280, peak_fma=200)]
        state, spread = self.state(rows, "prefill-512-int8", AVX2)
        self.assertEqual((state, spread.median), ("reached", 140))
        self.assertEqual(self.state(rows, "prefill-512-int8", AVX512)[1].median, 60)

    def test_with_amx_int8_is_held_to_the_peak_of_vnni(self):
        rows = [row("Rill", "pp512", 1, "8", pct_of_ceiling=20, gflops=2800, peak_vnni=2000)]
        self.assertEqual(self.state(rows, "prefill-512-int8", AMX)[1].median, 140)

    def test_the_slowest_length_counts_in_attention(self):
        rows = [row("Rill", f"attention-bf16@{n}", 1, "bf16", pct_of_ceiling=percent)
                for n, percent in ((4096, 85), (32768, 70))]
        self.assertEqual(self.state(rows, "attention-bf16", AVX512)[1].median, 70)

    def test_ratios_of_rill_to_itself_pair_the_rounds(self):
        rows = [row("Rill", "tg@0-x8", 80, number=0), row("Rill", "tg@0", 10, number=0),
                row("Rill", "tg@0-x8", 300, number=1), row("Rill", "tg@0", 50, number=1),
                row("Rill", "tg@0", 1, number=2)]
        self.assertEqual(self.state(rows, "batch-8", AVX512)[1], targets.Spread(6, 7, 8, 2))

    def test_less_is_better_for_time_and_memory(self):
        packed, kv, mib = 1192135096, 4096 * 114688, 1 << 20
        rows = [row("Rill", "tg@0", 10, model_size=packed), row("Rill", "first-token", 0.8),
                row("Rill", "memory", 1.05 * (packed + kv) + 60 * mib)]
        self.assertEqual(self.state(rows, "first-token", AVX2)[0], "reached")
        self.assertEqual(self.state(rows, "memory", AVX2)[0], "reached")
        rows[2]["value"] += 2 * mib
        self.assertEqual(self.state(rows, "memory", AVX2)[0], "short")

    def ratio(self, rows, kind=AVX512):
        table = targets.Table(rows)
        (line,) = report.ratio_lines(table, report.state_of_rows(table, kind), kind)
        return line[2].median, line[4]

    def test_a_ratio_is_to_the_best_option_of_the_best_peer_and_void_where_the_row_is_reached(self):
        peers = [row("llama.cpp", "pp512", 100, variant="fa0"),
                 row("llama.cpp", "pp512", 200, variant="fa1"), row("OpenVINO GenAI", "pp512", 180)]
        self.assertEqual(self.ratio([row("Rill", "pp512", 300), *peers]), (1.5, "reached"))
        self.assertEqual(self.ratio([row("Rill", "pp512", 200), *peers]), (1.0, "short"))
        value, state = self.ratio([row("Rill", "pp512", 200, pct_of_ceiling=90), *peers])
        self.assertTrue(value == 1.0 and state.startswith("void"), state)

    def test_with_amx_the_best_arithmetic_counts_and_no_ratio_of_prefill_is_void(self):
        rows = [row("OpenVINO GenAI", "pp512", 400), row("Rill", "pp512", 200, pct_of_ceiling=90)]
        self.assertEqual(self.ratio(rows, AMX), (0.5, "short"))
        rows.append(row("Rill", "pp512", 600, variant="bf16x32"))
        self.assertEqual(self.ratio(rows, AMX), (1.5, "reached"))


class Report(unittest.TestCase):
    def compose(self, rows, causes=""):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "causes-test.md"
            path.write_text(causes)
            options = types.SimpleNamespace(work=pathlib.Path("/w"), rill=pathlib.Path("/r/rill"),
                                            out=pathlib.Path("/d/performance-test"), causes=path)
            return report.compose(rows, MACHINE, options, True)

    def test_whole(self):
        rows = [row("Rill", "pp512", 700.5, pct_of_ceiling=71.25, build_commit="abc"),
                row("Rill", "pp512", 702.5, pct_of_ceiling=72.25, number=1),
                row("llama.cpp", "pp512", 440.4, variant="bf16 fa1"),
                {**row("ik_llama.cpp", "pp512", None), "error": "out of memory"}]
        text = self.compose(rows)
        self.assertIn("| prefill 512, bf16 compute | ≥ 82 % of FMA peak | 71.8 (71.2 to 72.2) | **short** |",
                      text)
        self.assertIn("| 16-bit, prefill 512 | 702 (700 to 702) | 440 bf16 fa1 | – | – | 1.59 |", text)
        self.assertIn("Test CPU, 2 cores", text)
        self.assertIn("`prefill-512-bf16`): no cause has been measured yet", text)
        self.assertIn("ik_llama.cpp  16 pp512: out of memory (1x)", text)
        self.assertIn("\nllama-bench -p\n", text)
        self.assertNotIn("/x/y", text)
        self.assertIn("![tokens per second](performance-test.svg)", text)
        self.assertIn("`bench/compare/causes-test.md`", text)
        self.assertNotIn("@", text.replace("pp512@", ""))

    def test_what_was_not_measured_in_turn_is_named(self):
        rows = [row("Rill", "tg@0", 30), row("llama.cpp", "tg@0", 20), row("Rill", "tg@4096", 18)]
        self.assertNotIn("Measured apart", self.compose(rows))
        rows[0]["time"] = "2026-11-20T00:00:00+00:00"
        rows[1]["time"] = "2026-11-20T00:09:59+00:00"
        self.assertNotIn("Measured apart", self.compose(rows))
        rows[1]["time"] = "2026-11-20T00:10:01+00:00"
        self.assertIn("Measured apart from Rill's turn: llama.cpp at tg@0 (16).\n", self.compose(rows))

    def test_causes_that_no_longer_fit_are_marked(self):
        rows = [row("Rill", "pp512", 700, pct_of_ceiling=70)]
        fresh = self.compose(rows, "## prefill-512-bf16 (at 70.5)\nThe bus.\n")
        self.assertIn("`prefill-512-bf16`): The bus.\n", fresh)
        stale = self.compose(rows, "## prefill-512-bf16 (at 60)\nThe bus.\n")
        self.assertIn("The bus. (Written at 60.0: to be looked at again.)", stale)
        with self.assertRaisesRegex(SystemExit, "no heading"):
            self.compose(rows, "## prefill-512-bf16\nThe bus.\n")

    def test_the_tracked_causes_are_of_rows_that_exist(self):
        keys = {entry.key for entry in targets.ROWS}
        keys |= {f"ratio-{weights}-{column}" for weights, column in targets.RATIOS}
        files = sorted(report.HERE.glob("causes*.md"))
        self.assertIn(report.HERE / "causes.md", files)
        for file in files:
            self.assertLessEqual(set(report.read_causes(file)), keys, file)

    def test_a_missing_file_of_causes_is_named(self):
        with self.assertRaisesRegex(SystemExit, "/none.md"):
            report.read_causes(pathlib.Path("/none.md"))


class CommandLine(unittest.TestCase):
    def test_defaults_and_steps(self):
        options = run.parse_arguments(["--depths", "4096"])
        self.assertEqual(options.steps, ["setup", "measure", "quality", "report"])
        self.assertEqual(run.parse_arguments(["report"]).steps, ["report"])


if __name__ == "__main__":
    unittest.main()
