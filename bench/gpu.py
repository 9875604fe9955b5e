"""Everything that needs a card, in one command: verifies first, then times.  Prints tables, writes JSON and a report.

    python bench/gpu.py [--json gpu.json] [--tiny]

Needs numpy, numba, numba-cuda, no network, and some five minutes; from a checkout it needs no installation either.
PyTorch or CuPy is the peer for products, PyTorch for networks; where they are missing, it says so. Verified: every CUDA
variant with fresh random inputs and poisoned outputs; the trajectory of training against the CPU; two runs, bit for
bit; that no copy is made while an epoch runs, by forbidding the engine's copies then; and compute-sanitizer's memcheck
and racecheck, where it is on the path. Where steps could not be captured as graphs it goes on, and ends with 1. Timed
with CUDA events: products against cuBLAS in float32 without TF32; with bias and ReLU against cuBLAS and a kernel of its
own for those; epochs against PyTorch eager and PyTorch with CUDA graphs.

Under the simulator (NUMBA_ENABLE_CUDASIM=1) everything runs at tiny sizes, and its times mean nothing.
"""

import argparse
import datetime
import json
import shutil
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

try:
    import fastnet.kernels  # noqa: F401 - whether it is there
except ImportError:  # not installed: the checkout, with kernels/ where the wheel has it
    sys.path.insert(0, str(ROOT))
    try:
        import safetensors  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError:  # neither is needed to train without a bar or a file
        for name in ("safetensors", "safetensors.numpy", "tqdm"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["safetensors"].numpy = sys.modules["safetensors.numpy"]  # type: ignore[attr-defined]
        sys.modules["tqdm"].tqdm = lambda **options: mock.MagicMock(disable=True)  # type: ignore[attr-defined]
    package = types.ModuleType("fastnet")
    package.__path__ = [str(ROOT / "fastnet")]
    sys.modules["fastnet"] = package
    from importlib.machinery import ModuleSpec

    package.__spec__ = ModuleSpec("fastnet", None, is_package=True)

    class _Kernels:
        """Finds fastnet.kernels in kernels/."""

        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            from importlib.util import spec_from_file_location

            if name != "fastnet.kernels":
                return None
            folder = ROOT / "kernels"
            return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])

    sys.meta_path.insert(0, _Kernels)  # type: ignore[arg-type]

from fastnet.kernels.cuda import device
from fastnet.kernels.cuda import engine as cuda_engine
from fastnet.kernels.cuda.arguments import DEVICE_PROGRESS, gemm_args
from fastnet.kernels.cuda.launch import GEMM_VARIANTS, launch
from fastnet.kernels.registry import CUDA_VARIANTS, OP_SPECS, Case
from fastnet.kernels.verify import check
from fastnet.network import Network
from fastnet.optimizers import SGD, Adam
from fastnet.trainer import Trainer

try:
    import torch

    if not torch.cuda.is_available():
        torch = None  # type: ignore[assignment]
except ImportError:
    torch = None  # type: ignore[assignment]
try:
    import cupy
except ImportError:
    cupy = None

cuda = device.cuda
NETWORKS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (  # layer sizes, batch sizes
    ((1, 16, 1), (16, 1024)),
    ((13, 64, 64, 1), (32, 1024)),
    ((64, 128, 128, 10), (64, 1024)),
    ((784, 256, 128, 10), (128, 1024)),
    ((512, 1024, 1024, 10), (256, 1024)),
    ((64, 64, 64, 10), (1024, 8192, 65536)),
)
SIZES = (256, 512, 1024, 2048, 4096, 8192)
STEPS = 64
"""Steps an epoch, so many that the host is never waited for."""


def events(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call between two events on the device's stream; of the simulator's clock there."""
    call()
    found = []
    for _ in range(repeats):
        if device.SIMULATED:
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
            continue
        first, last = cuda.event(), cuda.event()
        first.record()
        call()
        last.record()
        last.synchronize()
        found.append(cuda.event_elapsed_time(first, last) / 1e3)
    return statistics.median(found)


# --------------------------------------------------------------------------------------------- verifying


def verify_variants(tiny: bool, seed: int) -> dict[str, float]:
    """Worst error of every variant, as a share of its bound; anything above 1 raises."""
    worst: dict[str, float] = {}
    for variant in CUDA_VARIANTS:
        cases = list(OP_SPECS[variant.operation].cases)
        if tiny:
            cases = [case for case in cases if np.prod(case.dims) <= 64][-2:]
        elif variant.operation == "matmul":
            cases += [Case((513, 255, 257), "the smallest tile, long sums", kind) for kind in ("nn", "nt", "tn", "tt")]
            cases += [Case((1536, 40, 1536), "the largest tile, aligned", kind) for kind in ("nn", "nt", "tn")]
            cases += [Case((1537, 41, 1535), "the largest tile, nothing aligned", kind) for kind in ("nn", "nt", "tn")]
            cases += [Case((769, 33, 772), "the middle tile, edges", kind) for kind in ("nn", "nt", "tn")]
        for case in cases:
            for dtype in variant.dtypes:
                share = check(variant, case, dtype, seed)
                name = f"{variant.operation} {variant.name} {dtype}"
                worst[name] = max(worst.get(name, 0.0), share)
    return worst


def data(sizes: tuple[int, ...], rows: int, dtype: str = "float32") -> tuple[Any, Any]:
    """Inputs and targets."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, sizes[0])).astype(dtype), rng.standard_normal((rows, sizes[-1])).astype(dtype)


def trained(backend: str, resident: bool, optimizer: Any, tiny: bool) -> Any:
    """A trainer after some twelve steps in float64."""
    sizes, rows, batch = ((5, 9, 3), 11, 9) if tiny else ((33, 70, 129, 10), 1000, 90)
    X, y = data(sizes, rows, "float64")
    trainer = Trainer(
        Network(sizes, hidden="tanh", dtype="float64", seed=1), "mse", optimizer, batch, backend=backend, clip_norm=1.0
    )
    with mock.patch.object(cuda_engine, "RESIDENT_FLOPS", 10**12 if resident else 0):
        trainer.fit(X, y, epochs=1, progress=False)
    return trainer


def verify_training(tiny: bool) -> dict[str, Any]:
    """The trajectory against the CPU, run against run, and the bus."""
    found: dict[str, Any] = {}
    step = cuda_engine.CudaEngine._step
    way = set()

    def watched(self: Any, *arguments: Any) -> None:
        forbidden = mock.Mock(side_effect=AssertionError("a copy inside an epoch"))
        with mock.patch.object(cuda_engine, "send_to", forbidden), mock.patch.object(self, "_fetch", forbidden):
            step(self, *arguments)
        way.add(self.launch_mode)

    for resident in (True, False):
        for optimizer in (SGD(0.01, momentum=0.9), Adam()):
            with mock.patch.object(cuda_engine.CudaEngine, "_step", watched):
                first, second = (trained("cuda", resident, optimizer, tiny) for _ in range(2))
            truth = trained("cpu", resident, optimizer, tiny)
            error = float(np.abs(first.network.parameters - truth.network.parameters).max())
            assert error < 1e-9, f"{optimizer}: parameters are off by {error}"
            assert np.array_equal(first.network.parameters, second.network.parameters), "two runs differ"
            found[f"{'resident' if resident else 'launches'}, {type(optimizer).__name__}: off by"] = error
    return found | {"copies while steps ran": 0, "ways": sorted(way), "same bits twice": True}


def sanitized() -> str:
    """What compute-sanitizer says of a small training run: memory out of bounds, and races in shared memory."""
    program = shutil.which("compute-sanitizer")
    if program is None or device.SIMULATED:
        return "not here"
    for tool in ("memcheck", "racecheck"):
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--sanitize"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert made.returncode == 0, f"{tool}: {made.stdout[-2000:]}{made.stderr[-2000:]}"
    return "memcheck and racecheck found nothing"


# ------------------------------------------------------------------------------------------------ timing


def peer_product(A: Any, B: Any, after: bool) -> Callable[[], Any] | None:
    """The same product by cuBLAS, float32 without TF32; ``after``: with bias and ReLU as kernels of their own."""
    if torch is not None:
        torch.backends.cuda.matmul.allow_tf32 = False
        a, b = torch.from_numpy(A).cuda(), torch.from_numpy(B).cuda()
        bias = torch.zeros(B.shape[1], device="cuda")
        if after:
            return lambda: torch.relu((a @ b) + bias)
        out = torch.empty(A.shape[0], B.shape[1], device="cuda")
        return lambda: torch.matmul(a, b, out=out)
    if cupy is not None and not device.SIMULATED:
        a, b = cupy.asarray(A), cupy.asarray(B)
        bias = cupy.zeros(B.shape[1], "f4")
        return (lambda: cupy.maximum((a @ b) + bias, 0)) if after else (lambda: cupy.matmul(a, b))
    return None


def time_products(tiny: bool) -> list[dict[str, Any]]:
    """Every variant and cuBLAS."""
    rows = []
    rng = np.random.default_rng(0)
    for size in (8,) if tiny else SIZES:
        A, B = (rng.standard_normal((size, size)).astype("f4") for _ in range(2))
        a, b, c = device.send(A.reshape(-1)), device.send(B.reshape(-1)), device.empty(size * size, np.float32)
        bias = device.send(np.concatenate([B.reshape(-1), np.zeros(size, "f4")]))
        progress = device.send(np.zeros(1, DEVICE_PROGRESS))
        sizes, left, right = (size, size, size), (0, size, 1), (0, 1, size)
        plain = gemm_args(sizes, left, right, (0, size), np.float32)
        fused = gemm_args(sizes, left, right, (0, size), np.float32, bias=size * size, code=1)
        row: dict[str, Any] = {"size": size}
        repeats = 1 if tiny else 20 if size <= 2048 else 5
        for variant in GEMM_VARIANTS:
            if size > 2048 and variant in ("cuda_naive", "cuda_tiled"):
                continue
            seconds = events(lambda: launch(variant, plain, (progress, a, b, c)), repeats)  # noqa: B023
            row[variant] = 2 * size**3 / seconds / 1e12
        seconds = events(lambda: launch("cuda", fused, (progress, a, bias, c)), repeats)  # noqa: B023
        row["cuda, bias, relu"] = 2 * size**3 / seconds / 1e12
        for name, after in (("cuBLAS", False), ("cuBLAS, then bias, relu", True)):
            peer = peer_product(A, B, after)
            row[name] = None if peer is None else 2 * size**3 / events(peer, repeats) / 1e12
        rows.append(row)
    return rows


def epoch_of_torch(sizes: tuple[int, ...], batch: int, X: Any, y: Any, graphs: bool) -> Callable[[], Any]:
    """An epoch of PyTorch over data on the device, in order: eager, or each step a replayed graph."""
    layers: list[Any] = []
    for n, k in pairwise(sizes):
        layers += [torch.nn.Linear(n, k), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, foreach=True)
    X, y = torch.from_numpy(X).cuda(), torch.from_numpy(y).cuda()
    x_step, y_step = X[:batch].clone(), y[:batch].clone()

    def step() -> None:
        optimizer.zero_grad(set_to_none=not graphs)
        ((model(x_step) - y_step) ** 2).sum(1).mean().backward()
        optimizer.step()

    run: Callable[[], Any] = step
    if graphs:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        run = graph.replay

    def epoch() -> None:
        for start in range(0, len(X), batch):
            x_step.copy_(X[start : start + batch])
            y_step.copy_(y[start : start + batch])
            run()
        torch.cuda.synchronize()

    return epoch


def clock(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call that waits for the device itself."""
    call()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def time_networks(tiny: bool) -> list[dict[str, Any]]:
    """Microseconds a step of whole epochs, uploads before and downloads after included."""
    rows = []
    for sizes, batches in (((3, 9, 2), (9,)),) if tiny else NETWORKS:
        for batch in batches:
            steps = 2 if tiny else STEPS if batch < 65536 else 8
            X, y = data(sizes, batch * steps)
            row: dict[str, Any] = {"network": "-".join(map(str, sizes)), "batch": batch}
            for name, flops in (("one block", 10**12), ("launches", 0)):
                small = 6 * sum(n * k for n, k in pairwise(sizes)) * batch < 30_000_000
                if name == "one block" and not small:
                    row[name] = None
                    continue
                with mock.patch.object(cuda_engine, "RESIDENT_FLOPS", flops):
                    trainer = Trainer(Network(sizes), "mse", SGD(1e-3), batch, shuffle=False, backend="cuda")
                    engine = trainer._build(batch, train=True)
                    rates = np.array([1e-3])

                def epoch(trainer: Any = trainer, engine: Any = engine, X: Any = X, y: Any = y, r: Any = rates) -> None:
                    trainer._state.progress[...] = 0
                    engine.train(X, y, rates=r)

                row[name] = clock(epoch, 1 if tiny else 10) / steps * 1e6
                row[f"{name} run as"] = engine.launch_mode
            for name, graphs in (("torch eager", False), ("torch graphs", True)):
                if torch is None or device.SIMULATED:
                    row[name] = None
                else:
                    row[name] = clock(epoch_of_torch(sizes, batch, X, y, graphs), 10) / steps * 1e6
            rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------ report


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table of Markdown; what was not measured is a dash."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = (row.get(name) for name in names)
        shown = ("-" if c is None else f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells)
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    """Verify, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write everything to this file")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes only, to try the script")
    parser.add_argument("--report", help="folder of the report (default: bench/results, on a card)")
    parser.add_argument("--seed", type=int, help="of the random inputs (default: another each time)")
    parser.add_argument("--sanitize", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if device.missing():
        sys.exit(f"gpu.py: error: {device.missing()}")
    tiny = options.tiny or device.SIMULATED
    if options.sanitize:
        trained("cuda", True, Adam(), True)
        trained("cuda", False, Adam(), True)
        return
    began = time.perf_counter()
    seed = int(time.time()) if options.seed is None else options.seed
    card = "the simulator" if device.SIMULATED else str(cuda.get_current_device().name)
    card = card.removeprefix("b'").removesuffix("'")
    said = f"{card}, {datetime.date.today()}, seed {seed}"
    print(f"{said}\npeers: torch {'yes' if torch else 'missing'}, cupy {'yes' if cupy else 'missing'}", flush=True)
    errors = verify_variants(tiny, seed)
    print(f"{len(errors)} variants right; worst error {max(errors.values()):.2f} of its bound", flush=True)
    training = verify_training(tiny)
    print("\n".join(f"{name}: {value}" for name, value in training.items()), flush=True)
    sanitizer = sanitized()
    print(f"compute-sanitizer: {sanitizer}", flush=True)
    products = time_products(tiny)
    print(f"\nTFLOP/s, float32\n{table(products)}", flush=True)
    networks = time_networks(tiny)
    print(f"\nmicroseconds a step\n{table(networks)}\n\n{time.perf_counter() - began:.0f} s in all", flush=True)
    result = {
        "card": card,
        "date": str(datetime.date.today()),
        "seed": seed,
        "errors": errors,
        "training": training,
        "sanitizer": sanitizer,
        "products": products,
        "networks": networks,
    }
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1))
    folder = options.report or (None if device.SIMULATED else str(ROOT / "bench" / "results"))
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = "".join(c if c.isalnum() else "-" for c in card.lower())
        lines = [f"# {said}", "", "By `python bench/gpu.py`.", "", "## Verified", ""]
        lines += [f"- {len(errors)} variants; worst error {max(errors.values()):.2f} of its bound"]
        lines += [f"- {key}: {value}" for key, value in training.items()] + [f"- compute-sanitizer: {sanitizer}", ""]
        lines += ["## Products, TFLOP/s, float32", "", table(products), ""]
        lines += ["## Training, microseconds a step", "", table(networks), ""]
        (Path(folder) / f"{name}.md").write_text("\n".join(lines))
    expected = sorted(["resident", "stream" if device.SIMULATED else "graph"])
    if training["ways"] != expected:
        sys.exit(f"gpu.py: error: steps ran as {training['ways']}, not as {expected}: no graph could be captured")


if __name__ == "__main__":
    main()
