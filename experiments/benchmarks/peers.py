"""Other engines under the same stopwatch, each configured the way that is fastest for it. Runs inside worker processes."""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import machine

PACKAGES = {"transformers": ("torch", "transformers", "gguf", "accelerate"), "llama.cpp": ("xllamacpp",)}


def missing_packages(engine: str) -> list[str]:
    """Packages that ``engine`` needs and this Python does not have."""
    return [name for name in PACKAGES[engine] if importlib.util.find_spec(name) is None]


def _package(name: str) -> Any:
    """Import an optional package that type checkers need not find."""
    return importlib.import_module(name)


class TransformersEngine:
    """Hugging Face transformers on PyTorch, eager, with its KV cache; weights dequantised from the same GGUF file.

    Decoding goes through ``generate()`` or through a plain loop over the model with a ``DynamicCache``, whichever turns out
    faster in the warm-up; ``note`` says which.
    """

    def __init__(self, model: str, dtype: str):
        """``model`` is a GGUF file."""
        torch, transformers = _package("torch"), _package("transformers")
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(machine.num_threads())
        begin = time.perf_counter()
        path = Path(model)
        options = {"gguf_file": path.name, "dtype": getattr(torch, dtype)}
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, **options).eval()
        self.model.generation_config.eos_token_id = None  # every engine decodes the whole budget
        self.load_seconds = time.perf_counter() - begin
        self.dtype = dtype
        self.decode_with = self._decode_loop
        self.torch = torch
        self.new_cache = functools.partial(transformers.DynamicCache, config=self.model.config)
        parameters = inspect.signature(self.model.forward).parameters
        self.cache_argument = "cache" if "cache" in parameters else "past_key_values"  # the latter's name until 5.24

    def describe(self) -> dict[str, Any]:
        """Versions and threads."""
        return {
            "engine": "transformers",
            "version": f"{_package('transformers').__version__}, torch {self.torch.__version__}",
            "dtype": self.dtype,
            "threads": self.torch.get_num_threads(),
            "load_seconds": self.load_seconds,
        }

    def warm_up(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """Run until warm; for decoding, choose the faster way."""
        if kind == "prefill":
            self.measure(kind, **arguments)
            with self._counted_calls() as calls:
                self.measure(kind, **arguments)
            return {"tokens_per_call": 1 / len(calls)}
        _batch_of_one("transformers", arguments.pop("batch"))
        seconds, per_call = {}, {}
        for way in (self._decode_generate, self._decode_loop):
            with self._counted_calls() as calls:
                tokens, _ = way(**arguments)
            per_call[way] = len(tokens) / len(calls)
            tokens, times = way(**arguments)
            seconds[way] = times[-1] - times[0]
        self.decode_with = min(seconds, key=lambda way: seconds[way])
        note = "generate()" if self.decode_with == self._decode_generate else "plain loop over the model, DynamicCache"
        return {"note": note, "tokens": tokens, "tokens_per_call": per_call[self.decode_with]}

    @contextlib.contextmanager
    def _counted_calls(self) -> Iterator[list[None]]:
        """Yield a list that grows by one entry with every forward pass of the model."""
        calls: list[None] = []
        hook = self.model.register_forward_hook(lambda *_: calls.append(None))
        try:
            yield calls
        finally:
            hook.remove()

    def measure(self, kind: str, **arguments: Any) -> dict[str, float]:
        """Run once."""
        if kind == "prefill":
            ids = self.torch.tensor([list(arguments["prompt"])])
            begin = time.perf_counter()
            with self.torch.inference_mode():
                int(self.model(ids, use_cache=True, logits_to_keep=1).logits[0, -1].argmax())
            seconds = time.perf_counter() - begin
            return {"tokens_per_second": ids.shape[1] / seconds, "first_token_ms": seconds * 1e3}
        _batch_of_one("transformers", arguments.pop("batch"))
        begin = time.perf_counter()
        tokens, times = self.decode_with(**arguments)
        step_ms = (times[-1] - times[0]) / (len(tokens) - 1) * 1e3
        return {
            "tokens_per_second": 1e3 / step_ms,
            "step_ms": step_ms,
            "first_token_ms": (times[0] - begin) * 1e3,
        }

    def token_logits(self, context: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Logits of ``tokens`` as the next one behind ``context``."""
        with self.torch.inference_mode():
            logits = self.model(self.torch.tensor([list(context)]), logits_to_keep=1).logits[0, -1].float()
        return [float(logits[token]) for token in tokens]

    def _decode_generate(self, prompt: Sequence[int], new_tokens: int) -> tuple[list[int], list[float]]:
        clock = _TokenClock()
        ids = self.torch.tensor([list(prompt)])
        mask = self.torch.ones_like(ids)
        with self.torch.inference_mode():
            options = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0, "streamer": clock}
            out = self.model.generate(ids, attention_mask=mask, **options)
        return out[0, len(prompt) :].tolist(), clock.times

    def _decode_loop(self, prompt: Sequence[int], new_tokens: int) -> tuple[list[int], list[float]]:
        ids, tokens, times = self.torch.tensor([list(prompt)]), [], []
        cache = {self.cache_argument: self.new_cache()}
        with self.torch.inference_mode():
            for _ in range(new_tokens):
                logits = self.model(ids, **cache, use_cache=True, logits_to_keep=1).logits
                ids = logits[:, -1].argmax(-1, keepdim=True)
                tokens.append(int(ids[0, 0]))
                times.append(time.perf_counter())
        return tokens, times


def _batch_of_one(engine: str, batch: int):
    if batch != 1:
        raise ValueError(f"batch must be 1 for {engine}, got {batch}")


class _TokenClock:
    """A ``generate()`` streamer that notes when each token arrives (the prompt comes first and is not noted)."""

    def __init__(self):
        self.times: list[float] = []
        self._prompt_seen = False

    def put(self, _):
        if self._prompt_seen:
            self.times.append(time.perf_counter())
        self._prompt_seen = True

    def end(self):
        pass


class LlamaCppEngine:
    """llama.cpp through the wheel ``xllamacpp``, on the 4-bit weights as they are in the file.

    Rates are llama.cpp's own: ``predicted_per_second`` counts the tokens after the first, ``prompt_ms`` runs to the first
    token, as on the other sides.
    """

    def __init__(self, model: str, dtype: str):
        """``model`` is a GGUF file; ``dtype`` names its quantisation and changes nothing."""
        xllamacpp = _package("xllamacpp")
        begin = time.perf_counter()
        threads = machine.num_threads()
        options = xllamacpp.CommonParams()
        options.model.path = model
        options.n_ctx = 1024
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
        options.warmup = True
        with contextlib.suppress(AttributeError):
            options.verbosity = -1
        self.server = xllamacpp.Server(options)
        self.load_seconds = time.perf_counter() - begin
        self.dtype, self.threads, self.version = dtype, threads, xllamacpp.__version__

    def describe(self) -> dict[str, Any]:
        """Version and threads."""
        return {
            "engine": "llama.cpp",
            "version": f"xllamacpp {self.version}",
            "dtype": self.dtype,
            "threads": self.threads,
            "load_seconds": self.load_seconds,
        }

    def warm_up(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """Run once."""
        self.measure(kind, **arguments)
        return {}

    def measure(self, kind: str, prompt: Sequence[int], new_tokens: int = 1, batch: int = 1) -> dict[str, float]:
        """Run once.

        Raises:
          ValueError: a batch, or llama.cpp did not do the work asked for.
        """
        _batch_of_one("llama.cpp", batch)
        request = {"prompt": list(prompt), "n_predict": new_tokens, "max_tokens": new_tokens, "temperature": 0.0}
        reply = self.server.handle_completions({**request, "ignore_eos": True, "cache_prompt": False})
        timings = (reply[0] if isinstance(reply, list) else reply)["timings"]
        if (timings["prompt_n"], timings["predicted_n"]) != (len(prompt), new_tokens):
            raise ValueError(f"llama.cpp was asked for {len(prompt)} + {new_tokens} tokens, and reports {timings}")
        if kind == "prefill":
            seconds = timings["prompt_ms"] / 1e3
            return {"tokens_per_second": len(prompt) / seconds, "first_token_ms": seconds * 1e3}
        return {
            "tokens_per_second": (new_tokens - 1) / timings["predicted_ms"] * 1e3,
            "step_ms": timings["predicted_ms"] / (new_tokens - 1),
            "first_token_ms": timings["prompt_ms"],
        }
