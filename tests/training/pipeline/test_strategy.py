"""What cannot be trained in a pipeline is refused before any work is done."""

from pathlib import Path
from typing import Any

import pytest
import timm

import mhc_vision  # noqa: F401  (registers the models)
from mhc_vision.cli import main
from mhc_vision.training.pipeline.pipeline import process_of_stage
from mhc_vision.training.pipeline.stages import check_model, keep_parts, stage_parts
from mhc_vision.training.pipeline.strategy import PipelineStrategy

CONFIGS = Path(__file__).parents[3] / "configs"


def fit(run_dir: Path, *words: str) -> None:
    """In this process, as the first of two that a launcher outside would start."""
    main(
        [
            *("fit", "--config", str(CONFIGS / "digits.yaml")),
            *("--config", str(CONFIGS / "strategies" / "pipeline.yaml")),
            *("--trainer.devices", "2", "--model.model_args.depth", "2", "--trainer.default_root_dir", str(run_dir)),
            *words,
        ]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.devices", "1"], "pipeline_size: got 2 for 1 processes"),
        (["--trainer.devices", "3"], "pipeline_size: got 2 for 3 processes"),
        (["--trainer.strategy.pipeline_size", "1"], "pipeline_size: got 1 for 2 processes"),
        (["--trainer.strategy.num_microbatches", "3"], "num_microbatches: got 3, expected a multiple of"),
        (
            ["--trainer.strategy.num_microbatches", "2", "--trainer.strategy.schedule", "DualPipeV"],
            "num_microbatches: got 2, expected a multiple of pipeline_size=2, at least 4 with DualPipeV",
        ),
        (["--trainer.strategy.schedule", "GPipe"], "schedule: got 'GPipe'"),
        (["--trainer.strategy.schedule", "DualPipeV"], "pipeline_size: got 4 stages for 2 blocks"),
        (["--model.compile", "true"], "model.compile: got true for a pipeline"),
        (["--model.optimizer", "lamb"], "model.optimizer: got 'lamb' for a pipeline, expected 'adamw'"),
        (["--model.connection", "mudd"], "model.connection: got 'mudd' for a pipeline"),
        (["--trainer.callbacks+=EMA"], "EMA: got a model in a pipeline, expected DDP"),
        (["--model.name", "deit_tiny_distilled_patch16_224"], "model: got VisionTransformerDistilled for a pipeline"),
        (["--model.model_args.patch_drop_rate", "0.5"], "patch_drop_rate: got tokens to drop in a pipeline"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_named(words, message, tmp_path, monkeypatch, capsys):
    # torchrun's variables: nobody else is started
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "GROUP_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "run", *words)
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_drawn_rotary_embeddings_are_refused():
    model: Any = timm.create_model("vit_small_patch16_dinov3_mhc", depth=2, embed_dim=64, num_heads=2)
    check_model(model, 2)
    model.rope.jitter_coords = 1.5
    with pytest.raises(ValueError, match="model: got rotary embeddings with jitter_coords for a pipeline"):
        check_model(model, 2)


def test_stages_share_out_the_blocks():
    assert stage_parts(5, 2) == [range(2), range(2, 5)]
    assert stage_parts(4, 4) == [range(index, index + 1) for index in range(4)]
    assert [process_of_stage("DualPipeV", 2, stage) for stage in range(4)] == [0, 1, 1, 0]
    assert [process_of_stage("Interleaved1F1B", 2, stage) for stage in range(4)] == [0, 1, 0, 1]


def test_a_process_keeps_its_stages_and_the_names_of_all():
    model = timm.create_model("test_vit_mhc", depth=3)
    whole = {name: (value.shape, value.requires_grad) for name, value in model.named_parameters()}
    keep_parts(model, [range(2, 3)])
    assert {name: (value.shape, value.requires_grad) for name, value in model.named_parameters()} == whole
    kept = {name.split(".")[0] + name.split(".")[1] for name, value in model.named_parameters() if not value.is_meta}
    assert kept == {"blocks2", "normweight", "normbias", "headweight", "headbias"}


def test_one_share_of_the_data_for_all_processes_of_a_pipeline(monkeypatch):
    strategy = PipelineStrategy(pipeline_size=2)
    monkeypatch.setattr(PipelineStrategy, "_num_all", 6)
    monkeypatch.setattr(PipelineStrategy, "global_rank", 3)
    assert strategy.distributed_sampler_kwargs == {"num_replicas": 3, "rank": 1}
    assert strategy.num_microbatches == 8
