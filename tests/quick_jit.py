"""``jax.jit`` for tests of what a program computes and not how fast: compiling is mostly LLVM's optimiser at work."""

import jax

OPTIONS = {"xla_backend_optimization_level": 0}


def quick_jit(function, **options):
    """``jax.jit`` without LLVM's optimisations."""
    return jax.jit(function, compiler_options=OPTIONS, **options)
