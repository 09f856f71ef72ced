"""Where the classes and functions that configurations of earlier versions name are now."""

from typing import Any

# The names of version 0.1.0, in which all modules lay in one folder.
MOVED = {
    "yinggem.config.ModelConfig": "yinggem.model.config.ModelConfig",
    "yinggem.tokenizer": "yinggem.text.tokenizer",
    "yinggem.datamodule": "yinggem.training.datamodule",
    "yinggem.streaming": "yinggem.training.streaming",
    "yinggem.adafactor": "yinggem.training.adafactor",
    "yinggem.optim": "yinggem.training.optimizers",
    "yinggem.trainer": "yinggem.training.trainer",
    "yinggem.saving": "yinggem.callbacks.checkpoints",
    "yinggem.callbacks.EarlyStopping": "yinggem.callbacks.samples.EarlyStopping",
    "yinggem.callbacks.TextSamples": "yinggem.callbacks.samples.TextSamples",
    "yinggem.callbacks.LossCurve": "yinggem.callbacks.samples.LossCurve",
    "yinggem.averaging": "yinggem.callbacks.ema",
    "yinggem.machine": "yinggem.callbacks.throughput",
    "yinggem.monitoring": "yinggem.callbacks.model_stats",
    "yinggem.progress": "yinggem.callbacks.progress",
    "yinggem.pruning": "yinggem.callbacks.pruning",
    "yinggem.loggers": "yinggem.callbacks.loggers",
    "yinggem.trackers": "yinggem.callbacks.trackers",
}


def present_name(target: str) -> str:
    """What a recorded `_target_` is called now; itself if it has not moved."""
    if target in MOVED:
        return MOVED[target]
    module, _, name = target.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else target


def with_present_names(tree: Any) -> Any:
    """A recorded configuration with every `_target_` as it is called now."""
    if isinstance(tree, list):
        return [with_present_names(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: present_name(value) if key == "_target_" and isinstance(value, str) else with_present_names(value)
        for key, value in tree.items()
    }
