# SPDX-License-Identifier: Apache-2.0
"""Builds and installs the engines that Rill is compared with, and makes the model for all of them.

Everything lands in a work folder, and what is there already is not made again.
"""
import subprocess
import sys

from engines import HERE, Paths

ROOT = HERE.parent.parent
TOKENIZER = ROOT / "tests/golden/qwen3-tokenizer"
CMAKE_OPTIONS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF",
                 "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=ON", "-DLLAMA_BUILD_SERVER=OFF"]


def shell(*command, **options):
    command = [str(word) for word in command]
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, **options)


def virtual_environment(folder, packages):
    """A Python with `packages`."""
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        shell(sys.executable, "-m", "venv", folder)
        shell(python, "-m", "pip", "install", "--quiet", *packages)
        (folder / "complete").touch()
    return python


def build_llama(source, build, options, jobs, targets):
    if not all((build / "bin" / target).exists() for target in targets):
        shell("cmake", "-S", source, "-B", build, *CMAKE_OPTIONS, *options)
        shell("cmake", "--build", build, "--parallel", jobs, "--target", *targets)


def llama_source(work, python):
    """llama.cpp as the PyPI package llama-cpp-python carries it. pip asks the package for its
    metadata, for which `python` has to have scikit-build-core."""
    found = list(work.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if not found:
        shell(python, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps",
              "--no-build-isolation", "--dest", work, "llama-cpp-python")
        (archive,) = work.glob("llama_cpp_python-*.tar.gz")
        shell("tar", "xzf", archive, "-C", work)
        found = list(work.glob("llama_cpp_python-*/vendor/llama.cpp"))
    return found[0]


def make_models(models, rill_make_model, python, quantize):
    """The same random weights in every engine's form."""
    models.mkdir(exist_ok=True)
    if not (models / "rill/config.json").exists():
        shell(rill_make_model, models / "rill", "--shape", "qwen3-0.6b", "--tokenizer", TOKENIZER)
    for name in ("bf16", "f16"):
        if not (models / f"{name}.gguf").exists():
            shell(python, HERE / "write_gguf.py", models / "rill", models / f"{name}.gguf", "--type",
                  name)
    for name in ("q8_0", "q4_0"):
        if not (models / f"{name}.gguf").exists():
            shell(quantize, models / "bf16.gguf", models / f"{name}.gguf", name.upper(),
                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def set_up(options):
    """Makes what is missing of the engines that were asked for."""
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    python = virtual_environment(work / "venv", ["openvino-genai", "gguf", "numpy", "matplotlib",
                                                 "scikit-build-core"])
    build_llama(llama_source(work, python), work / "llama.cpp", [], options.jobs,
                ["llama-bench", "llama-quantize"])
    if options.ik:
        build_llama(options.ik, work / "ik_llama.cpp", ["-DGGML_IQK_FA_ALL_QUANTS=OFF"],
                    options.jobs, ["llama-bench"])
    if not options.torch and "PyTorch" in options.peers:
        virtual_environment(work / "venv-torch", ["torch==2.13.0", "numpy"])
    make_models(work / "models", options.rill.parent / "rill-make-model", python,
                work / "llama.cpp/bin/llama-quantize")


def python_of(work):
    """The Python that has numpy, gguf, OpenVINO and matplotlib."""
    return work / "venv/bin/python"


def find(options):
    """Paths of what is there."""
    def existing(path):
        return path if path.exists() else None
    work = options.work
    return Paths(rill=options.rill, models=work / "models",
                 llama_bench=existing(work / "llama.cpp/bin/llama-bench"),
                 ik_bench=existing(work / "ik_llama.cpp/bin/llama-bench"),
                 openvino_python=existing(python_of(work)),
                 torch_python=options.torch or existing(work / "venv-torch/bin/python"))


def fill_option(rill):
    """["--fill"] if `rill bench` can write random KV instead of computing it."""
    usage = subprocess.run([rill, "bench", "--help"], capture_output=True, text=True, check=True)
    return ["--fill"] if "--fill" in usage.stdout else []


def python_with_matplotlib(work):
    """This Python if it can draw (Debian's python3-matplotlib), else the work folder's."""
    try:
        import matplotlib  # noqa: F401
        return sys.executable
    except ImportError:
        return python_of(work) if python_of(work).exists() else None
