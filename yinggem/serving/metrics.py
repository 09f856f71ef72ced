"""What a server has done, as Prometheus reads it."""

import threading
from collections import Counter

HELP = {
    "yinggem_requests_total": "Responses to completions, by status; 499: the client went away.",
    "yinggem_tokens_drawn_total": "Tokens that were generated.",
    "yinggem_tokens_read_total": "Tokens of prompts that were read.",
    "yinggem_request_seconds_total": "Time that completions took, added up.",
    "yinggem_models_replaced_total": "How often a newer checkpoint was taken.",
    "yinggem_rows_busy": "Texts that go on now.",
    "yinggem_rows": "Texts that can go on side by side.",
    "yinggem_requests_waiting": "Requests of which something waits for a row.",
    "yinggem_model_step": "The training step of the checkpoint.",
}


class Metrics:
    """Counts, from any thread."""

    def __init__(self) -> None:
        self._lock, self._requests = threading.Lock(), Counter[int]()
        self._drawn, self._read, self._seconds = 0, 0, 0.0

    def count_tokens(self, drawn: int, read: int) -> None:
        """So many more were drawn, and read."""
        with self._lock:
            self._drawn += drawn
            self._read += read

    def count_request(self, status: int, seconds: float) -> None:
        """One more request has ended."""
        with self._lock:
            self._requests[status] += 1
            self._seconds += seconds

    def text(self, now: dict[str, float]) -> str:
        """Prometheus' text format, with what holds `now`."""
        with self._lock:
            requests = dict(self._requests)
            values = {"yinggem_tokens_drawn_total": self._drawn, "yinggem_tokens_read_total": self._read,
                      "yinggem_request_seconds_total": self._seconds} | now  # fmt: skip
        lines = _head("yinggem_requests_total")
        lines += [f'yinggem_requests_total{{status="{status}"}} {count}' for status, count in sorted(requests.items())]
        for name, value in values.items():
            lines += [*_head(name), f"{name} {value:.10g}"]
        return "\n".join(lines) + "\n"


def _head(name: str) -> list[str]:
    kind = "counter" if name.endswith("_total") else "gauge"
    return [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}"]
