"""The tests of a module are found by its name: tests/ROOM/test_MODULE.py, or where it says here."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "yinggem"

# Modules whose meaning shows only together with others; a new one had better have a file of its own.
ELSEWHERE = {
    "callbacks/early_stopping.py": "commands/test_options.py",
    "callbacks/last_checkpoint.py": "runs/test_resume.py",
    "callbacks/loggers/late_logger.py": "commands/test_continuing.py",
    "callbacks/lightning_monitors.py": "runs/test_metrics_file.py",
    "callbacks/loss_curve.py": "commands/test_train.py",
    "callbacks/loggers/metrics_csv.py": "runs/test_metrics_file.py",
    "callbacks/monitors.py": "commands/test_options.py",
    "callbacks/on_start.py": "commands/test_continuing.py",
    "callbacks/progress.py": "commands/test_train.py",
    "callbacks/pruning.py": "search/test_trials.py",
    "callbacks/samples.py": "commands/test_options.py",
    "callbacks/loggers/tensorboard.py": "callbacks/test_loggers.py",
    "callbacks/throughput.py": "callbacks/test_model_stats.py",
    "callbacks/loggers/trackers.py": "commands/test_options.py",
    "commands/compare.py": "runs/test_comparison.py",
    "commands/run/hyperparameters.py": "callbacks/test_loggers.py",
    "commands/import.py": "export/test_hf_import.py",
    "commands/run/outcome.py": "commands/test_train.py",
    "commands/quantize.py": "model/test_quantization.py",
    "commands/run/report.py": "commands/test_train.py",
    "commands/output/sample_output.py": "commands/test_generate.py",
    "commands/shard.py": "training/test_streaming.py",
    "commands/run/train_process.py": "commands/test_command_line.py",
    "commands/run/train_words.py": "commands/test_command_line.py",
    "common/command_line.py": "commands/test_generate.py",
    "common/config_files.py": "faults/test_command_lines.py",
    "common/errors.py": "common/test_explain.py",
    "common/progress_bar.py": "common/test_streams.py",
    "common/stopping.py": "commands/test_command_line.py",
    "common/verified_files.py": "text/tokens/test_token_cache.py",
    "engine/weights.py": "engine/test_engine.py",
    "export/folder.py": "export/test_hf.py",
    "export/formats.py": "commands/test_export.py",
    "export/hf_config.py": "export/test_hf.py",
    "export/hf_weights.py": "export/test_hf.py",
    "export/model_card.py": "commands/test_export.py",
    "export/html/bundle.py": "export/test_html.py",
    "export/html/contents.py": "export/test_html.py",
    "export/html/file.py": "export/test_html.py",
    "export/modeling_yinggem.py": "export/test_hf.py",
    "export/onnx_model.py": "export/test_onnx.py",
    "export/safetensors.py": "commands/test_export.py",
    "export/source.py": "commands/test_export.py",
    "inference/completion.py": "inference/test_generation.py",
    "inference/networks/engine_network.py": "inference/test_generation.py",
    "inference/filters.py": "inference/test_generation.py",
    "inference/sampling.py": "inference/test_generation.py",
    "inference/pages/self_contained.py": "inference/pages/test_surprise_page.py",
    "inference/files/stored_tensors.py": "inference/files/test_unpickling.py",
    "inference/networks/torch_network.py": "inference/test_generation.py",
    "inference/files/verification.py": "inference/test_checkpoint.py",
    "inference/files/weight_digest.py": "inference/files/test_rounded_weights.py",
    "memory/copy_index.py": "memory/test_copy_guard.py",
    "memory/matching.py": "memory/test_copies.py",
    "memory/stretches.py": "memory/test_copies.py",
    "memory/text_stats.py": "memory/test_copies.py",
    "model/activations.py": "model/test_layers.py",
    "model/config.py": "model/test_transformer.py",
    "model/kernels/banded_attention.py": "model/test_attention.py",
    "model/kernels/chunked_cross_entropy.py": "model/test_loss.py",
    "model/kernels/flex_attention.py": "model/test_attention.py",
    "model/kernels/gated_activation.py": "model/test_layers.py",
    "model/kernels/integer_matrix.py": "model/test_quantization.py",
    "model/kernels/rms_norm.py": "model/test_layers.py",
    "model/kernels/rotation.py": "model/test_rope.py",
    "model/norms.py": "model/test_layers.py",
    "runs/processes.py": "training/test_distributed.py",
    "runs/record.py": "commands/test_command_line.py",
    "runs/new_run.py": "commands/test_command_line.py",
    "search/study.py": "search/test_trials.py",
    "inference/token_log.py": "serving/test_completions.py",
    "serving/body.py": "serving/test_completions.py",
    "serving/errors.py": "serving/test_api.py",
    "serving/page_facts.py": "serving/test_page.py",
    "serving/metrics.py": "serving/test_api.py",
    "serving/sample.py": "serving/test_completions.py",
    "serving/served_model.py": "serving/test_api.py",
    "serving/tokenizing.py": "serving/test_api.py",
    "text/assets/make_assets.py": "text/test_corpus.py",
    "text/bpe.py": "text/test_tokenizer.py",
    "text/files/compression.py": "text/files/test_formats.py",
    "text/marks.py": "text/test_documents.py",
    "text/reading.py": "text/test_documents.py",
    "text/sketches.py": "text/test_duplicates.py",
    "text/vocabulary.py": "text/test_tokenizer.py",
    "training/loaders.py": "training/test_datamodule.py",
    "text/encoding.py": "text/test_corpus.py",
    "text/files/tinyshakespeare.py": "text/files/test_text_files.py",
    "text/text_record.py": "commands/test_evaluate.py",
    "text/tokens/token_array.py": "text/tokens/test_token_cache.py",
    "text/tokens/token_shards.py": "training/test_streaming.py",
    "training/optimizers/adafactor.py": "training/optimizers/test_building.py",
    "training/distributed/companions.py": "training/test_distributed.py",
    "training/optimizers/muon.py": "training/optimizers/test_building.py",
    "training/epoch_loop.py": "training/test_module.py",
    "training/plan/trial_run.py": "commands/test_options.py",
    "training/distributed/rendezvous.py": "training/test_distributed.py",
    "training/distributed/sharding.py": "training/test_distributed.py",
    "training/trainer.py": "training/test_module.py",
    "training/tuning.py": "commands/test_options.py",
}
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.glob("*/**/*.py") if path.name != "__init__.py")


def own(module: str) -> str:
    room, _, name = module.rpartition("/")
    return f"{room}/test_{name}"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_tests_where_its_name_says(module):
    place = ELSEWHERE.get(module, own(module))
    assert (TESTS / place).is_file(), f"write tests/{place}, or say in {Path(__file__).name} which test covers {module}"


def test_nothing_is_listed_that_is_gone_or_has_tests_of_its_own():
    assert [module for module in ELSEWHERE if module not in MODULES or (TESTS / own(module)).is_file()] == []
