"""llama.cpp beside the arms: plain greedy decoding of the same token ids, in a process of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks.peers import missing_packages
from experiments.benchmarks.worker_process import WorkerError, WorkerProcess
from experiments.evaluation.setting import Options, Setting

PEER = "llama.cpp"


def open_peer(options: Options, path: str, absent: list[dict[str, str]]) -> WorkerProcess | None:
    """Start llama.cpp, if it is wanted and can be; else say in ``absent`` why not."""
    if not options.peer:
        return None
    reason = ""
    if not path.endswith(".gguf"):
        reason = "the model is no GGUF file"
    elif missing := missing_packages(PEER):
        reason = f"not installed: {', '.join(missing)} (pip install -e '.[peers]')"
    else:
        try:
            quantisation = (Path(path).suffixes[-2:-1] or [".as stored"])[0].lstrip(".")
            target = "experiments.benchmarks.peers:LlamaCppEngine"
            return WorkerProcess(PEER, target, {"model": path, "dtype": quantisation})
        except WorkerError as error:
            reason = str(error).splitlines()[0]
    absent.append({"side": PEER, "reason": reason})
    return None


class PeerWorker:
    """Another engine that is asked for texts as long as those of plain decoding."""

    def __init__(self, worker: WorkerProcess, setting: Setting, lengths: Mapping[str, int]):
        """``lengths``: tokens of plain decoding by prompt, found before: work of this process would count as foreign load."""
        self._worker, self._setting, self._lengths = worker, setting, lengths
        self.reset_peak_rss, self.peak_rss, self.cpu_seconds = (
            worker.reset_peak_rss,
            worker.peak_rss,
            worker.cpu_seconds,
        )

    def call(self, method: str, **arguments: Any) -> Any:
        """``measure`` a prompt by ``name``."""
        name = arguments["name"]
        new_tokens = max(2, self._lengths[name])
        return self._worker.call(method, kind="decode", prompt=self._setting.token_ids[name], new_tokens=new_tokens)
