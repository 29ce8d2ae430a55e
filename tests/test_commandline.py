import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from repa.cli import COMMANDS, main
from repa.commandline import parse_options
from repa.config import ProbeOptions, ReportOptions, SampleOptions, TrainOptions
from repa.errors import RepaError

REQUIRED = ["--exp-name", "a", "--data-dir", "d", "--model", "SiT-B/2"]
REPOSITORY = Path(__file__).parents[1]


def train_options(*arguments: str) -> TrainOptions:
    return parse_options(TrainOptions, [*REQUIRED, *arguments], "repa train")


def test_the_published_training_command_line_is_understood() -> None:
    line = (
        "--report-to=wandb --allow-tf32 --mixed-precision=fp16 --seed=0 --path-type=linear "
        "--prediction=v --weighting=uniform --model=SiT-XL/2 --enc-type=dinov2-vit-b "
        "--proj-coeff=0.5 --encoder-depth=8 --output-dir=exps --exp-name=linear-dinov2-b-enc8 "
        "--data-dir=data --resolution=256"
    )
    options = parse_options(TrainOptions, line.split(), "train.py")
    assert options.allow_tf32 is True
    assert options.report_to == "wandb"
    assert options.model == "SiT-XL/2"
    assert options.proj_coeff == 0.5
    assert options.resolution == 256


def test_the_published_defaults_hold() -> None:
    options = train_options()
    assert (options.batch_size, options.learning_rate, options.adam_weight_decay) == (256, 1e-4, 0)
    assert (options.max_grad_norm, options.ema_decay, options.cfg_prob) == (1, 0.9999, 0.1)
    assert (options.encoder_depth, options.proj_coeff, options.enc_type) == (8, 0.5, "dinov2-vit-b")


def test_switches_can_be_turned_off() -> None:
    assert train_options().fused_attn is True
    assert train_options("--no-fused-attn").fused_attn is False
    assert train_options("--qk-norm").qk_norm is True


def test_the_command_line_overrides_the_recipe_and_that_the_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("batch-size: 32\nproj_coeff: 1.5\nqk_norm: true\n")
    arguments = [*REQUIRED, "--config", str(recipe), "--batch-size", "64"]
    defaults = {"batch_size": 1, "proj_coeff": 9.0, "encoder_depth": 4}
    options = parse_options(TrainOptions, arguments, "repa train", defaults)
    assert options.encoder_depth == 4
    assert (options.batch_size, options.proj_coeff, options.qk_norm) == (64, 1.5, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mixed-precision", "fp8"], "--mixed-precision 'fp8': input should be 'auto', 'no', "),
        (["--batch-size", "0"], "--batch-size '0': input should be greater than 0"),
        (["--batch-size", "many"], "--batch-size 'many': input should be a valid integer"),
        (["--proj-coeff", "-1"], "--proj-coeff '-1': input should be greater than or equal to 0"),
        (["--cfg-prob", "1.1"], "--cfg-prob '1.1': input should be less than or equal to 1"),
        (["--device", "tpu"], "--device 'tpu': input should be 'cpu' or 'cuda'"),
        (["--path-type", "cubic"], "--path-type 'cubic': input should be 'linear' or 'cosine'"),
    ],
)
def test_a_wrong_value_is_one_line_with_option_value_and_choices(
    arguments, message, capsys
) -> None:
    assert main(["train", *REQUIRED, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"repa train: error: {message}")
    assert error.count("\n") == 1


def test_options_that_contradict_each_other_are_refused() -> None:
    arguments = ["--ckpt", "c", "--guidance-low", "0.8", "--guidance-high", "0.2"]
    with pytest.raises(RepaError, match=r"--guidance-low 0\.8 is above --guidance-high 0\.2"):
        parse_options(SampleOptions, arguments, "repa sample")


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("SiT-B/2", ["--text-enc-type", "t5-small"], "--text-enc-type t5-small: SiT-B/2 takes cl"),
        ("DiT-B/2", ["--text-encoder-weights", "a"], "--text-encoder-weights a: DiT-B/2 takes cl"),
        ("MMDiT-S/2", ["--num-classes", "8"], "--num-classes 8: MMDiT-S/2 takes texts, not class"),
    ],
)
def test_options_of_another_kind_of_model_are_refused(model, given, message, capsys) -> None:
    assert main(["train", *REQUIRED, "--model", model, *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"repa train: error: {message}")
    assert error.endswith("; leave it out\n")


def test_a_run_of_classes_can_be_repeated_by_its_recipe(tmp_path: Path) -> None:
    """Which has every option, those of texts too."""
    options = train_options("--prediction=v")
    recipe = tmp_path / "config.yaml"
    recipe.write_text(yaml.safe_dump(options.model_dump(mode="json")))
    assert parse_options(TrainOptions, ["--config", str(recipe)], "repa train") == options


def test_a_missing_option_is_named(capsys) -> None:
    assert main(["train", "--exp-name", "a", "--model", "SiT-B/2"]) == 2
    assert capsys.readouterr().err == "repa train: error: --data-dir is required\n"


@pytest.mark.parametrize("flag", ["--bath-size", "--batch"])
def test_an_unknown_or_shortened_option_is_refused(flag: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", *REQUIRED, flag, "8"])
    assert caught.value.code == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bath_size: 3", "unknown option --bath-size"),
        ("batch_size: {a: 1}", "--batch-size"),
        ("- a\n- b", "expected lines of the form"),
        ("a: [", "not YAML"),
        ("batch_size: !!python/object/apply:os.system ['echo']", "not YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path: Path, content: str, message: str, capsys) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    assert main(["train", *REQUIRED, "--config", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_recipe_is_named(capsys) -> None:
    assert main(["train", "--config", "no.yaml"]) == 2
    assert "--config no.yaml: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_in_groups(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name, field in COMMANDS[command][0].model_fields.items():
        positional = bool(field.json_schema_extra)
        assert ("RUN [RUN ...]" if positional else "--" + name.replace("_", "-")) in text
    assert text.count(":\n") >= 2  # groups with titles


def test_an_unknown_command_lists_the_known_ones(capsys) -> None:
    assert main(["fly"]) == 2
    assert "no command 'fly'; choose from demo, prepare, train" in capsys.readouterr().err


def test_an_option_takes_several_values_and_a_recipe_one_or_more(tmp_path: Path) -> None:
    def options(*arguments: str) -> ProbeOptions:
        return parse_options(ProbeOptions, ["--data-dir", "d", *arguments], "repa probe")

    assert options().times == (0.1, 0.3, 0.5, 0.7, 0.9)
    given = options("--times", "0", "0.25", "--ckpt", "a", "b", "--depths", "3")
    assert given.times == (0.0, 0.25)
    assert given.ckpt == (Path("a"), Path("b"))
    assert given.depths == (3,)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("times: 0.5\nckpt: [a, b]\n")
    read = options("--config", str(recipe))
    assert (read.times, read.ckpt) == ((0.5,), (Path("a"), Path("b")))
    for wrong in (["--times", "2"], ["--depths", "0"]):
        with pytest.raises(RepaError, match=wrong[0]):
            options(*wrong)


def test_values_without_a_flag_are_the_runs(tmp_path: Path) -> None:
    def options(*arguments: str) -> ReportOptions:
        return parse_options(ReportOptions, list(arguments), "repa report")

    given = options("one", "two", "--output-dir", "page")
    assert (given.runs, given.output_dir) == ((Path("one"), Path("two")), Path("page"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("runs: one\n")
    assert options("--config", str(recipe)).runs == (Path("one"),)
    with pytest.raises(RepaError, match="RUN"):
        options()


RECIPES = sorted((REPOSITORY / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(path: Path) -> None:
    command = next((name for name in COMMANDS if path.stem.startswith(name)), "train")
    options = parse_options(COMMANDS[command][0], ["--config", str(path)], f"repa {command}")
    given = yaml.safe_load(path.read_text())
    assert given.items() <= options.model_dump(mode="json").items()


def test_there_are_recipes() -> None:
    assert RECIPES


ONE_OF_SEVERAL = """
import atexit, os, sys
import subprocess
import sys
from pathlib import Path
import torch
from repa.commandline import run
from repa.errors import RepaError

atexit.register(os.abort)  # as threads of the process group do now and then

def command():
    torch.distributed.init_process_group("gloo")
    print("done", os.environ["RANK"])
    if sys.argv[1] == "fails":
        raise RepaError("no such thing")

sys.exit(run("repa", command))
"""


@pytest.mark.parametrize(("how", "code"), [("works", 0), ("fails", 1)])
def test_one_of_several_processes_ends_before_anything_can_abort_it(tmp_path, how, code) -> None:
    (tmp_path / "script.py").write_text(ONE_OF_SEVERAL)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "script.py", how], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert "SIGABRT" not in done.stderr
    assert all(done.stdout.count(part) == n for part, n in (("done", 2), ("0", 1), ("1", 1)))
    assert ("repa: error: no such thing" in done.stderr) == (how == "fails")
