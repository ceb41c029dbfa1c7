#!/usr/bin/env python3
"""Times of OpenFHE at N = 2^16 on one thread: rotation, multiplication, full-slot bootstrapping. Prints JSON lines.

Needs the PyPI package `openfhe` (see README.md). Rotation and multiplication run on 50-bit scaling primes,
bootstrapping on 59-bit ones: with 50 bits it takes longer and its worst slot keeps 7 bits. Both chains are the deepest
with four digits that the library accepts at HEStd_128_classic; with three it accepts neither.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # Read when the library is loaded, so it stands before the import.

import argparse
import dataclasses
import json
import math
import random
import resource
import statistics
import sys
import time

try:
    import openfhe as fhe
except ImportError as error:
    sys.exit(f"openfhe_bench.py: the Python package `openfhe` cannot be loaded ({error}); see peers/README.md")

LOG_N = 16
SLOTS = 1 << (LOG_N - 1)
# Bits of the special primes of hybrid key switching: the library makes as many as cover its largest digit.
SPECIAL_BITS = 60


@dataclasses.dataclass(frozen=True)
class Chain:
    """Sizes of a chain of primes: one of `first_bits`, then `depth` of `scale_bits`, in `digits` digits."""

    scale_bits: int
    depth: int
    digits: int = 4
    first_bits: int = 60

    def log_q(self):
        """log2 of Q from the sizes of the primes; the bindings do not give the primes themselves."""
        return self.first_bits + self.depth * self.scale_bits

    def log_qp(self):
        """log2 of Q times the special primes."""
        largest_digit = self.first_bits + (math.ceil((self.depth + 1) / self.digits) - 1) * self.scale_bits
        return self.log_q() + math.ceil(largest_digit / SPECIAL_BITS) * SPECIAL_BITS


OPERATION_CHAIN = Chain(scale_bits=50, depth=25)
BOOTSTRAP_CHAIN = Chain(scale_bits=59, depth=22)


def context(chain, secret, scaling, features):
    """A context of a chain; raises RuntimeError when the library finds it insecure."""
    parameters = fhe.CCParamsCKKSRNS()
    parameters.SetSecurityLevel(fhe.SecurityLevel.HEStd_128_classic)
    parameters.SetSecretKeyDist(secret)
    parameters.SetRingDim(1 << LOG_N)
    parameters.SetBatchSize(SLOTS)
    parameters.SetScalingTechnique(scaling)
    parameters.SetFirstModSize(chain.first_bits)
    parameters.SetScalingModSize(chain.scale_bits)
    parameters.SetMultiplicativeDepth(chain.depth)
    parameters.SetNumLargeDigits(chain.digits)
    crypto = fhe.GenCryptoContext(parameters)
    for feature in (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE, *features):
        crypto.Enable(feature)
    return crypto


def report(operation, chain, times_ms, **more):
    """Prints one result."""
    line = {
        "operation": operation,
        "library": "OpenFHE",
        "version": fhe.__version__,
        "log_n": LOG_N,
        "log_q": chain.log_q(),
        "log_qp": chain.log_qp(),
        "limbs": chain.depth + 1,
        "digits": chain.digits,
        "scale_log2": chain.scale_bits,
        "threads": 1,
        "runs": len(times_ms),
        "median_ms": statistics.median(times_ms),
        "min_ms": min(times_ms),
        "max_ms": max(times_ms),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(line | more), flush=True)


def measure(runs, work):
    """Milliseconds of each of `runs` runs after one to warm up."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def random_values(generator):
    """Uniform values in [-1, 1), one per slot."""
    return [generator.uniform(-1, 1) for _ in range(SLOTS)]


def precision_bits(crypto, secret_key, ciphertext, expected):
    """-log2 of the largest and of the mean error over all slots."""
    plaintext = crypto.Decrypt(ciphertext, secret_key)
    plaintext.SetLength(SLOTS)
    errors = [abs(a - b) for a, b in zip(plaintext.GetRealPackedValue(), expected, strict=True)]
    return -math.log2(max(errors)), -math.log2(statistics.fmean(errors))


def operations(runs, generator):
    """Rotation by one slot, and product with relinearization and rescaling, at the top of the chain."""
    crypto = context(OPERATION_CHAIN, fhe.SecretKeyDist.UNIFORM_TERNARY, fhe.ScalingTechnique.FIXEDMANUAL, ())
    keys = crypto.KeyGen()
    crypto.EvalMultKeyGen(keys.secretKey)
    crypto.EvalRotateKeyGen(keys.secretKey, [1])
    values = random_values(generator), random_values(generator)
    a, b = (crypto.Encrypt(keys.publicKey, crypto.MakeCKKSPackedPlaintext(v)) for v in values)

    def multiply():
        return crypto.Rescale(crypto.EvalMult(a, b))

    rotated = values[0][1:] + values[0][:1]
    product = [x * y for x, y in zip(*values, strict=True)]
    checks = (("rotate", lambda: crypto.EvalRotate(a, 1), rotated), ("multiply", multiply, product))
    for name, work, expected in checks:
        worst, mean = precision_bits(crypto, keys.secretKey, work(), expected)
        if worst < 10:
            sys.exit(f"openfhe_bench.py: {name} has {worst:.1f} bits of precision, so it is not what was measured")
        report(name, OPERATION_CHAIN, measure(runs, work), worst_slot_bits=worst, mean_slot_bits=mean)
    clear(crypto)


def bootstrap(runs, level_budget, generator):
    """Bootstrapping of all slots from the lowest level, with the precision of every run."""
    secret, chain = fhe.SecretKeyDist.SPARSE_ENCAPSULATED, BOOTSTRAP_CHAIN
    crypto = context(chain, secret, fhe.ScalingTechnique.FLEXIBLEAUTO, (fhe.ADVANCEDSHE, fhe.FHE))
    crypto.EvalBootstrapSetup(level_budget, [0, 0], SLOTS)
    keys = crypto.KeyGen()
    crypto.EvalMultKeyGen(keys.secretKey)
    crypto.EvalBootstrapKeyGen(keys.secretKey, SLOTS)
    times, worst, means, levels = [], math.inf, [], 0
    for run in range(runs + 1):
        values = random_values(generator)
        plaintext = crypto.MakeCKKSPackedPlaintext(values, 1, chain.depth - 1, None, SLOTS)
        ciphertext = crypto.Encrypt(keys.publicKey, plaintext)
        start = time.perf_counter()
        refreshed = crypto.EvalBootstrap(ciphertext)
        elapsed = (time.perf_counter() - start) * 1e3
        if run == 0:
            continue  # It warms up.
        times.append(elapsed)
        levels = chain.depth - refreshed.GetLevel() - (refreshed.GetNoiseScaleDeg() - 1)
        least, mean = precision_bits(crypto, keys.secretKey, refreshed, values)
        worst = min(worst, least)
        means.append(mean)
    more = {"slots": SLOTS, "levels_left": levels, "level_budget": level_budget}
    report("bootstrap", chain, times, worst_slot_bits=worst, mean_slot_bits=statistics.fmean(means), **more)
    clear(crypto)


def clear(crypto):
    """Frees keys and tables, which the library holds in global maps."""
    fhe.ClearEvalMultKeys()
    crypto.ClearEvalAutomorphismKeys()
    fhe.ReleaseAllContexts()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="bootstraps that count (default 3)")
    parser.add_argument("--operation-runs", type=int, default=20, help="rotations and products (default 20)")
    parser.add_argument("--level-budget", type=int, nargs=2, default=[3, 3], metavar=("C2S", "S2C"))
    parser.add_argument("--only", choices=("operations", "bootstrap"), help="one half of the benchmark")
    arguments = parser.parse_args()
    if min(arguments.runs, arguments.operation_runs) < 1:
        parser.error("at least one run is needed")
    generator = random.Random(1)
    if arguments.only != "bootstrap":
        operations(arguments.operation_runs, generator)
    if arguments.only != "operations":
        bootstrap(arguments.runs, list(arguments.level_budget), generator)


if __name__ == "__main__":
    main()
