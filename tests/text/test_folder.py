"""Where text models are looked for, and what is wrong with a folder."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from repa.errors import RepaError
from repa.text import KINDS, TEXT_ENCODERS, create_text_encoder, folder
from text.models import save_clip

WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(tmp_path: Path, clip: Path) -> Path:
    """A CLIP to damage."""
    return Path(shutil.copytree(clip, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, and no network."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


@pytest.mark.parametrize("name", ["clip", "clip:", "bert:x", "", ":x", "clip-vit-L", "MiniLM"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(RepaError, match=f"^unknown text encoder {name!r}; choose") as error:
        create_text_encoder(name)
    for known in (*TEXT_ENCODERS, *KINDS):
        assert known in str(error.value)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("clip-vit-l", "openai/clip-vit-large-patch14"),
        ("t5-base", "google-t5/t5-base"),
        ("clip:somebody/a-clip", "somebody/a-clip"),
        ("sentence:a-bert", "a-bert"),
    ],
)
def test_without_a_network_one_line_says_what_to_put_where(name: str, place: str) -> None:
    with pytest.raises(RepaError) as error:
        create_text_encoder(name)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"no weights for {name}: download of {place} failed (")
    assert message.endswith(
        "put its config.json, model.safetensors and tokenizer files into a folder and name that "
        "with --text-encoder-weights"
    )


def test_only_data_is_downloaded_and_then_read_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, clip: Path, hub_cache: Path
) -> None:
    repository = hub_cache / "models--openai--clip-vit-large-patch14"
    shutil.copytree(clip, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    asked = {}
    download = folder.snapshot_download

    def record(place: str, **options: object) -> str:
        asked.update(options, place=place)
        return download(place, **options)

    monkeypatch.setattr(folder, "snapshot_download", record)
    encoder = create_text_encoder("clip-vit-l")
    assert encoder.fingerprint == create_text_encoder(f"clip:{clip}").fingerprint
    wanted = ["*.json", "*.txt", "*.model", "model*.safetensors"]
    assert asked == {
        "place": "openai/clip-vit-large-patch14",
        "allow_patterns": wanted,
        "ignore_patterns": "*/*",
    }


def test_a_local_folder_needs_no_network(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.chdir(copy.parent)
    assert create_text_encoder("clip:copy").name == "clip:copy"
    monkeypatch.setenv("HOME", str(copy.parent))
    assert create_text_encoder("clip:~/copy").name == "clip:~/copy"


def test_the_folder_given_comes_before_the_one_named(clip: Path, tmp_path: Path) -> None:
    other = save_clip(tmp_path, seed=1)
    encoder = create_text_encoder(f"clip:{clip}", other)
    assert encoder.name == f"clip:{clip}"
    assert encoder.fingerprint == create_text_encoder("clip-vit-l", other).fingerprint
    assert encoder.fingerprint != create_text_encoder(f"clip:{clip}").fingerprint


@pytest.mark.parametrize("place", ["/no/such/folder", "./nowhere", "../nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_no_name_on_the_hub(place: str) -> None:
    with pytest.raises(RepaError, match=r"^there is no folder .*; expected one with clip:"):
        create_text_encoder(f"clip:{place}")


def test_weights_that_are_no_folder(clip: Path, tmp_path: Path) -> None:
    for weights in (tmp_path / "nowhere", clip / WEIGHTS):
        with pytest.raises(RepaError, match=f"^there is no folder {weights}; .*clip-vit-l's"):
            create_text_encoder("clip-vit-l", weights)


def test_a_pickle_is_not_loaded_and_the_line_says_how_to_convert_it(
    tmp_path: Path, copy: Path
) -> None:
    class Poison:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-run"),)

    (copy / WEIGHTS).unlink()
    torch.save({"logit_scale": Poison()}, copy / "pytorch_model.bin")
    with pytest.raises(
        RepaError, match=r"weights only in pytorch_model\.bin; .*AutoModel"
    ) as error:
        create_text_encoder(f"clip:{copy}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "was-run").exists()


def test_the_conversion_that_the_line_names(copy: Path) -> None:
    before = create_text_encoder(f"clip:{copy}").fingerprint
    torch.save(load_file(copy / WEIGHTS), copy / "pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    with pytest.raises(RepaError) as error:
        create_text_encoder(f"clip:{copy}")
    exec(str(error.value).split('python -c "')[1].removesuffix('"'), {})
    assert create_text_encoder(f"clip:{copy}").fingerprint == before


def test_code_beside_the_weights_is_not_run(tmp_path: Path, bert: Path) -> None:
    copy = Path(shutil.copytree(bert, tmp_path / "copy"))
    (copy / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'was-run')!r})")
    for own in ("bert", "unheard-of"):
        edit_json("config.json", auto_map={"AutoModel": "code.A", "AutoConfig": "code.B"},
                  model_type=own)(copy)  # fmt: skip
        edit_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["code.C", None]})(copy)
        if own == "bert":
            create_text_encoder(f"sentence:{copy}")
        else:
            with pytest.raises(RepaError, match="cannot load a text encoder"):
                create_text_encoder(f"sentence:{copy}")
        assert not (tmp_path / "was-run").exists()


def edit_json(file: str, **changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        contents = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(contents | changes))

    return edit


def edit_text_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= changes
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def truncate(file: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: len(data) // 2])

    return damage


def drop_a_weight(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state["text_model.final_layer_norm.bias"]
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def smaller_vocabulary(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    name = "text_model.embeddings.token_embedding.weight"
    state[name] = state[name][:400].clone()
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    edit_text_config(vocab_size=400, bos_token_id=398, eos_token_id=399, pad_token_id=399)(folder)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"has no config\.json; expected"),
    "config not JSON": (truncate("config.json"), "cannot load a text encoder"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "cannot load a text encoder"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"has no model\.safetensors; expected"),
    "truncated weights": (truncate(WEIGHTS), "cannot load a text encoder"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "cannot load a text encoder"),
    "a weight less": (
        drop_a_weight,
        r": 1 of the network's .*, final_layer_norm\.bias first",
    ),
    "other widths": (
        edit_text_config(intermediate_size=48),
        r": 6 of the network's weights .* of another shape, encoder\.layers\.0\.mlp\.fc1\.bias",
    ),
    "nonsense widths": (edit_text_config(hidden_size="wide"), "cannot load a text encoder"),
    "no vocabulary": (
        lambda f: [(f / file).unlink() for file in ("vocab.json", "merges.txt")],
        r"has no tokenizer, which is tokenizer\.json or vocab\.json and merges\.txt; put its",
    ),
    "half a vocabulary": (lambda f: (f / "vocab.json").unlink(), "cannot load a text encoder"),
    "broken vocabulary": (truncate("vocab.json"), "cannot load a text encoder"),
    "another vocabulary": (smaller_vocabulary, "its tokenizer knows 520 tokens, its network 400"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_one_clear_line(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copy)
    with pytest.raises(RepaError, match=message) as error:
        create_text_encoder(f"clip:{copy}")
    assert "\n" not in str(error.value)
    print("MSG", error.value)


@pytest.mark.parametrize(("kind", "fixture"), [("clip", "t5"), ("clip", "bert"), ("t5", "clip")])
def test_another_kind_of_network(request: pytest.FixtureRequest, kind: str, fixture: str) -> None:
    with pytest.raises(RepaError, match="is it another network's folder"):
        create_text_encoder(f"{kind}:{request.getfixturevalue(fixture)}")


def test_weights_in_half_precision_are_read_in_float32(clip: Path, copy: Path) -> None:
    state = {name: value.half() for name, value in load_file(clip / WEIGHTS).items()}
    save_file(state, copy / WEIGHTS, metadata={"format": "pt"})
    edit_json("config.json", dtype="float16")(copy)
    encoder = create_text_encoder(f"clip:{copy}")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    exact = create_text_encoder(f"clip:{clip}")(["red heart"])
    torch.testing.assert_close(encoder(["red heart"]), exact, rtol=0.05, atol=0.05)


def test_loading_is_quiet(
    clip: Path, capfd: pytest.CaptureFixture[str], log: pytest.LogCaptureFixture
) -> None:
    """The image model in the same file is worth no table."""
    create_text_encoder(f"clip:{clip}")
    assert capfd.readouterr() == ("", "")
    assert not log.records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged: expected the files of weights by name"),
        ("[]", "is damaged: expected the files of weights by name"),
        ('{"weight_map": {"a": 3}}', "is damaged: expected the files of weights by name"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "names '../b.safetensors', which is no .saf"),
        ('{"weight_map": {"a": "b.bin"}}', "names 'b.bin', which is no .safetensors file"),
    ],
)
def test_an_index_names_files_beside_it(copy: Path, content: str, message: str) -> None:
    (copy / "model.safetensors.index.json").write_text(content)
    with pytest.raises(RepaError, match=rf"copy/model\.safetensors\.index\.json {message}"):
        create_text_encoder("clip-vit-l", copy)
