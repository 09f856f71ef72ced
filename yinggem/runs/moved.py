"""Where the classes and functions that configurations of earlier versions name are now."""

from typing import Any

MOVED = {
    # Every target in the configuration of version 0.1.0, in which all modules lay in one folder.
    "yinggem.config.ModelConfig": "yinggem.model.config.ModelConfig",
    "yinggem.tokenizer.GPT2Tokenizer": "yinggem.text.tokenizer.GPT2Tokenizer",
    "yinggem.tokenizer.BPETokenizer": "yinggem.text.tokenizer.BPETokenizer",
    "yinggem.tokenizer.CharTokenizer": "yinggem.text.tokenizer.CharTokenizer",
    "yinggem.tokenizer.ByteTokenizer": "yinggem.text.tokenizer.ByteTokenizer",
    "yinggem.datamodule.TextDataModule": "yinggem.training.datamodule.TextDataModule",
    "yinggem.streaming.StreamingDataModule": "yinggem.training.streaming.StreamingDataModule",
    "yinggem.adafactor.Adafactor": "yinggem.training.optimizers.adafactor.Adafactor",
    "yinggem.optim.MuonAdamW": "yinggem.training.optimizers.muon.MuonAdamW",
    "yinggem.optim.constant": "yinggem.training.schedules.constant",
    "yinggem.optim.trapezoid": "yinggem.training.schedules.trapezoid",
    "yinggem.optim.warmup_cosine": "yinggem.training.schedules.warmup_cosine",
    "yinggem.trainer.Trainer": "yinggem.training.trainer.Trainer",
    "yinggem.saving.ModelCheckpoint": "yinggem.callbacks.best_checkpoint.ModelCheckpoint",
    "yinggem.saving.LastCheckpoint": "yinggem.callbacks.last_checkpoint.LastCheckpoint",
    "yinggem.callbacks.EarlyStopping": "yinggem.callbacks.early_stopping.EarlyStopping",
    "yinggem.callbacks.TextSamples": "yinggem.callbacks.samples.TextSamples",
    "yinggem.callbacks.LossCurve": "yinggem.callbacks.loss_curve.LossCurve",
    "yinggem.averaging.EMA": "yinggem.callbacks.ema.EMA",
    "yinggem.machine.Throughput": "yinggem.callbacks.throughput.Throughput",
    "yinggem.monitoring.UpdateRatios": "yinggem.callbacks.model_stats.UpdateRatios",
    "yinggem.monitoring.AttentionDistances": "yinggem.callbacks.model_stats.AttentionDistances",
    "yinggem.progress.progress": "yinggem.callbacks.progress.progress",
    "yinggem.pruning.Pruning": "yinggem.callbacks.pruning.Pruning",
    "yinggem.loggers.MetricsCSV": "yinggem.callbacks.loggers.metrics_csv.MetricsCSV",
    "yinggem.loggers.TensorBoard": "yinggem.callbacks.loggers.tensorboard.TensorBoard",
    "yinggem.trackers.Wandb": "yinggem.callbacks.loggers.trackers.Wandb",
    "yinggem.trackers.MLFlow": "yinggem.callbacks.loggers.trackers.MLFlow",
    # Rooms of version 0.2 that were divided.
    "yinggem.callbacks.metrics_csv.MetricsCSV": "yinggem.callbacks.loggers.metrics_csv.MetricsCSV",
    "yinggem.callbacks.tensorboard.TensorBoard": "yinggem.callbacks.loggers.tensorboard.TensorBoard",
    "yinggem.callbacks.trackers.Wandb": "yinggem.callbacks.loggers.trackers.Wandb",
    "yinggem.callbacks.trackers.MLFlow": "yinggem.callbacks.loggers.trackers.MLFlow",
    "lightning.pytorch.callbacks.LearningRateMonitor": "yinggem.callbacks.lightning_monitors.LearningRateMonitor",
    "lightning.pytorch.callbacks.DeviceStatsMonitor": "yinggem.callbacks.lightning_monitors.DeviceStatsMonitor",
}


def with_present_names(tree: Any) -> Any:
    """A recorded configuration with every `_target_` as it is called now."""
    if isinstance(tree, list):
        return [with_present_names(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: MOVED.get(value, value) if key == "_target_" and isinstance(value, str) else with_present_names(value)
        for key, value in tree.items()
    }
