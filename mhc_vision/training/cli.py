"""The command `train`: LightningCLI with a run directory of our layout."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only

import mhc_vision.data  # noqa: F401  its classes can be named without their module
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.option_names import SUBCOMMANDS
from mhc_vision.run_directory import LAST, NEWEST, PREDICTIONS, SUMMARY
from mhc_vision.training.callbacks.connection_monitor import ConnectionMonitor
from mhc_vision.training.callbacks.contribution import MapContribution
from mhc_vision.training.callbacks.divergence import StopWhenDiverged
from mhc_vision.training.callbacks.ema import EMA  # noqa: F401  can be named without its module
from mhc_vision.training.callbacks.interrupt import InterruptCheckpoint
from mhc_vision.training.callbacks.loss_spikes import LossSpikes
from mhc_vision.training.callbacks.predictions import CollectPredictions
from mhc_vision.training.callbacks.resume_position import ResumePosition
from mhc_vision.training.callbacks.run_summary import RunSummary
from mhc_vision.training.callbacks.save_config import SaveConfigOnStart
from mhc_vision.training.callbacks.setup_mark import SetupMark
from mhc_vision.training.callbacks.short_progress_bar import ShortProgressBar
from mhc_vision.training.callbacks.throughput import Throughput
from mhc_vision.training.callbacks.validation_lines import ValidationLines
from mhc_vision.training.checkpoint import AtomicCheckpointIO, ShardingStrategy, checkpoint_callbacks
from mhc_vision.training.deferred_weights import deferring
from mhc_vision.training.jsonl_logger import ForgetLaterSteps, JsonlLogger
from mhc_vision.training.module import ClassificationModule
from mhc_vision.training.options.errors import REFUSALS, reason_of, trainer_refusals
from mhc_vision.training.options.parser import OptionParser, parse_options
from mhc_vision.training.resume import check_same_classes, check_same_model, check_same_run, resume_path
from mhc_vision.training.run_guard import BeginRun, RunDirectory

EVALUATIONS = SUBCOMMANDS[1:]
DEFAULT_RUN_DIR = "runs/default"


class TrainCLI(LightningCLI):
    """LightningCLI for `module_class` and a data module chosen by name, with a run directory of our layout.

    `trainer.default_root_dir` is the run directory: config.yaml, metrics.jsonl, checkpoints/ and summary.json go there.

    Args:
        args: The words of the command line after the command's name.
        run: Whether to run the subcommand; else only build data, model and trainer.
    """

    command_name = "train"
    module_class: type[ClassificationModule] = ClassificationModule

    def __init__(self, args: Sequence[str], run: bool = True) -> None:
        self.command = list(args)
        self._setup_mark = SetupMark()
        self._overwrites = False
        super().__init__(
            self.module_class,
            LightningDataModule,
            save_config_callback=SaveConfigOnStart,
            trainer_defaults={
                "default_root_dir": DEFAULT_RUN_DIR,
                "use_distributed_sampler": False,
                # `ValidationLines` says what there is to say of the model
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            subclass_mode_data=True,
            args=self.command,
            parser_class=OptionParser,
            run=run,
            # the optimiser is the module's; its own saved hyper-parameters are plain types, which the CLI's are not
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The subcommands there are, with the arguments of the Trainer's methods that the CLI fills in."""
        return {name: LightningCLI.subcommands()[name] for name in SUBCOMMANDS}

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Builds the parsers; checkpoints are loaded as data, not as code, unless `--weights_only false` is given."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        if add_subcommands:
            for parser in self._subcommand_parsers.values():
                parser.set_defaults(weights_only=True)
            for name in EVALUATIONS:
                # `ValidationLines` prints the figures
                self._subcommand_parsers[name].set_defaults(verbose=False)
            self._subcommand_parsers["fit"].add_argument(
                "--overwrite",
                type=bool,
                default=False,
                help="Replace the run in trainer.default_root_dir: its checkpoints and records are removed.",
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What the data knows, the model is told."""
        for attribute in ("num_classes", "in_chans", "img_size"):
            parser.link_arguments(f"data.{attribute}", f"model.{attribute}", apply_on="instantiate")
        # a data module of one's own need not have it
        parser.link_arguments("data", "model.metric", lambda data: getattr(data, "metric", "top1"), "instantiate")
        parser.link_arguments("trainer.default_root_dir", "trainer.logger.init_args.save_dir")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the command line; see `parse_options`."""
        self.config = parse_options(parser, self.command)

    def _parse_ckpt_path(self) -> None:
        """Lightning would put the model settings of a checkpoint over those given, unsaid; here they are compared."""

    def fit(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """`Trainer.fit`, from the checkpoint that `ckpt_path` means: a file, or `last` for the newest of the run.

        What a run's setup refuses ends the program with a message, as in `instantiate_classes`.
        """
        with self._setup_mark.refusals_as_messages(), self._run_directory_of_its_own():
            path = resume_path(self._start(ckpt_path), self._run_directory.path)
            if path is not None:
                # it says how many processes share the data; `Trainer.fit` sets it, too late
                self.datamodule.trainer = self.trainer
                check_same_run(path, self.model, self.datamodule)
            if self._start(ckpt_path) is not None:
                said = f"resuming from {path}" if path else "no checkpoint yet: starting from the beginning"
                rank_zero_only(print)(said)
            self.trainer.fit(ckpt_path=path, **kwargs)

    def _start(self, ckpt_path: str | None) -> str | None:
        """What `ckpt_path` means: left out, `last` where torchrun or SLURM has started the run again."""
        return NEWEST if ckpt_path is None and self._run_directory.is_restarted() else ckpt_path

    @contextmanager
    def _run_directory_of_its_own(self) -> Iterator[None]:
        """Locks the run directory, on the first process; a trial of the code writes nothing and needs no lock."""
        if self.trainer.fast_dev_run or not self.trainer.is_global_zero:  # type: ignore[attr-defined]
            yield
            return
        with self._run_directory.locked():
            # again: another run may have come and gone since the settings were read
            self._check_run_directory()
            if self._overwrites:
                self._run_directory.forget_requeue()
            yield

    def _check_run_directory(self) -> None:
        ckpt_path = self._get(self.config, "ckpt_path")
        restarted = self._run_directory.is_restarted()
        self._overwrites = bool(self._get(self.config, "overwrite", False)) and not restarted
        self._run_directory.check(resumed=restarted or ckpt_path is not None, overwrite=self._overwrites)

    def before_instantiate_classes(self) -> None:
        """Refuses a run directory in which the run must not or cannot write, before data are read or models built."""
        try:
            self._run_directory = RunDirectory(self._get(self.config, "trainer.default_root_dir"))
            if self._writes_run and not self._get(self.config, "trainer.fast_dev_run"):
                self._check_run_directory()
        except ValueError as error:
            fail(f"error: {error}", status=2)

    @property
    def _writes_run(self) -> bool:
        return self.subcommand == "fit"

    def validate(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """`Trainer.validate` of the given weights, or of a checkpoint as in `fit`."""
        self._evaluate(self.trainer.validate, ckpt_path, kwargs)

    def test(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """`Trainer.test` of the given weights, or of a checkpoint as in `fit`."""
        self._evaluate(self.trainer.test, ckpt_path, kwargs)

    def _evaluate(self, evaluate: Callable[..., Any], ckpt_path: str | None, kwargs: dict[str, Any]) -> None:
        run_dir = Path(self.trainer.default_root_dir)
        with self._setup_mark.refusals_as_messages():
            path = resume_path(ckpt_path, run_dir)
            if ckpt_path is not None and path is None:
                raise ValueError(f"ckpt_path: got {ckpt_path!r}, expected a checkpoint in {run_dir}; train first")
            if path is not None:
                check_same_model(path, self.model)
                check_same_classes(path, self.datamodule)
            else:
                self._keep_weights()
            evaluate(ckpt_path=path, **kwargs)

    def _keep_weights(self) -> None:
        """To be called before an evaluation of given weights: in a SLURM job it would be of a requeued checkpoint's."""
        connector = self.trainer._checkpoint_connector
        # as if a user had set `trainer.ckpt_path`: then Lightning looks for none itself
        connector._ckpt_path, connector._user_managed = None, True

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what they refuse ends the program with a message instead of a traceback.

        Weights that are to be sharded get no memory before.
        """
        try:
            with deferring(self._shards()):
                super().instantiate_classes()
        except REFUSALS as error:
            fail(f"error: {reason_of(error)}", status=2)

    def _shards(self) -> bool:
        """Whether the strategy is one that shards weights; a pipeline is cut from a whole model."""
        strategy = self._get(self.config, "trainer.strategy")
        kind = resolve_name(strategy.class_path) if hasattr(strategy, "class_path") else type(strategy)
        return kind in (ModelParallelStrategy, ShardingStrategy)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the Trainer with the run directory's logger, checkpoints and callbacks added to those configured."""
        config = self._get(self.config_init, "trainer")
        run_dir = self._run_directory.path
        callbacks = config["callbacks"] or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        loggers = config["logger"]
        if loggers is not False:
            others = [] if loggers in (None, True) else loggers if isinstance(loggers, list) else [loggers]
            # an evaluation is no part of the run whose records are there
            kwargs["logger"] = others if self.subcommand in EVALUATIONS else [JsonlLogger(run_dir), *others]
        plugins = config["plugins"] or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        kwargs["plugins"] = plugins
        kwargs["callbacks"] = [*callbacks, *self._run_callbacks(run_dir, callbacks, config)]
        with trainer_refusals(config):
            return super().instantiate_trainer(**kwargs)

    def _run_callbacks(self, run_dir: Path, configured: list[Callback], config: dict[str, Any]) -> list[Callback]:
        seed = self._get(self.config_init, "seed_everything")
        # False: Lightning's word for no seed
        seed = None if seed is False else seed
        summary = RunSummary(run_dir / SUMMARY, ["mhc-vision", self.command_name, *self.command], seed)
        begin = BeginRun(self._run_directory, self._overwrites)
        # before the summary, which a diverged run does not get
        added: list[Callback] = [*_missing([StopWhenDiverged()], configured), begin]
        # what it measures goes into the summary
        added += [*_missing([MapContribution()], configured), summary]
        added += [CollectPredictions(run_dir / PREDICTIONS), ResumePosition(), self._setup_mark]
        every_n_steps = config["log_every_n_steps"] or 50
        watched = config["logger"] is not False
        if watched:
            added += _missing([LossSpikes(every_n_steps), ConnectionMonitor(10 * every_n_steps)], configured)
        # after what its checkpoint holds
        saves = config["enable_checkpointing"] is not False
        # a trial of the code must not replace the checkpoint of a run
        added.append(InterruptCheckpoint(run_dir / LAST if saves and not config["fast_dev_run"] else None))
        # after all that takes time after a batch, or waits for the other processes there
        if watched:
            added += _missing([Throughput(every_n_steps)], configured)
        added.append(ForgetLaterSteps())
        # explicit: Lightning would choose Rich where it is importable, which is unreadable in a log file
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in configured):
            added.append(ShortProgressBar())
        # after the bar, which has made room then
        added += _missing([ValidationLines()], configured)
        if saves:
            added.extend(checkpoint_callbacks(run_dir, self.model.hparams["metric"]))
        return added


def _missing(ours: list[Callback], configured: list[Callback]) -> list[Callback]:
    """Those of our callbacks that the configuration does not set up itself."""
    present = {type(callback) for callback in configured}
    return [callback for callback in ours if type(callback) not in present]
