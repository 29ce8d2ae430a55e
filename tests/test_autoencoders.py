import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from repa.autoencoders import (
    HUB_NAMES,
    Pixels,
    create_autoencoder,
    from_uint8,
    sample_latents,
    to_uint8,
)
from repa.errors import RepaError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def vae_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small autoencoder of SD-VAE's kind with random weights, in diffusers' format."""
    folder = tmp_path_factory.mktemp("vae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            latent_channels=4,
            scaling_factor=0.18215,
        )
        with torch.no_grad():  # outputs that differ from image to image
            vae.decoder.conv_out.weight.mul_(5)
            vae.encoder.conv_out.weight.mul_(5)
    vae.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(tmp_path: Path, vae_dir: Path) -> Path:
    """An autoencoder to damage."""
    return Path(shutil.copytree(vae_dir, tmp_path / "copy"))


def images(count: int, resolution: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    shape = (count, 3, resolution, resolution)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


# Between bytes and numbers


def test_from_uint8_spans_minus_one_to_one() -> None:
    values = from_uint8(torch.arange(256, dtype=torch.uint8))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, torch.linspace(-1, 1, 256))


def test_to_uint8_truncates_and_clamps() -> None:
    levels = torch.tensor([-5.0, 0.0, 0.999, 1.0, 1.999, 127.5, 254.999, 255.0, 256.0, 400.0])
    values = to_uint8(2 * levels.double() / 255 - 1 + 1e-9)
    assert values.tolist() == [0, 0, 0, 1, 1, 127, 254, 255, 255, 255]
    assert values.dtype == torch.uint8


def test_a_round_trip_changes_a_pixel_by_one_at_most() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    back = to_uint8(from_uint8(pixels))
    difference = pixels.int() - back.int()
    assert difference.min() >= 0
    assert difference.max() <= 1
    assert back[[0, 255]].tolist() == [0, 255]


def test_sample_latents_is_mean_plus_std_times_noise_scaled() -> None:
    mean, std, noise = torch.randn(3, 2, 4, 5, 5)
    latents = sample_latents(torch.cat([mean, std], dim=1), noise, 0.5)
    torch.testing.assert_close(latents, (mean + std * noise) * 0.5)


# Pixels


def test_pixels_are_their_own_latents() -> None:
    pixels = create_autoencoder("pixel")
    assert isinstance(pixels, Pixels)
    assert pixels.latent_shape(24) == (3, 24, 24)
    assert pixels.encode(images(2)) is None
    assert (pixels.decode(from_uint8(images(2))).int() - images(2).int()).abs().max() <= 1


# SD-VAE


def test_moments_are_the_posteriors_mean_and_standard_deviation(vae_dir: Path) -> None:
    autoencoder = create_autoencoder(str(vae_dir))
    moments = autoencoder.encode(images(3))
    assert moments is not None
    assert moments.shape == (3, 8, 4, 4)
    reference = AutoencoderKL.from_pretrained(vae_dir)
    with torch.no_grad():
        mean, logvar = reference.quant_conv(reference.encoder(from_uint8(images(3)))).chunk(2, 1)
    torch.testing.assert_close(moments, torch.cat([mean, (logvar / 2).exp()], dim=1))


def test_scale_and_latent_shape_come_from_the_configuration(vae_dir: Path) -> None:
    autoencoder = create_autoencoder(str(vae_dir))
    assert autoencoder.scale == 0.18215
    assert autoencoder.name == str(vae_dir)
    assert autoencoder.latent_shape(256) == (4, 32, 32)
    assert autoencoder.latent_shape(8) == (4, 1, 1)


@pytest.mark.parametrize("resolution", [1, 7, 12, 250])
def test_a_resolution_that_cannot_be_given_back_is_refused(vae_dir: Path, resolution: int) -> None:
    with pytest.raises(RepaError, match=f"--resolution {resolution} is no multiple of 8"):
        create_autoencoder(str(vae_dir)).latent_shape(resolution)


def test_decoding_in_slices_is_decoding_at_once(
    vae_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    autoencoder = create_autoencoder(str(vae_dir))
    latents = torch.randn(7, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    at_once = autoencoder.decode(latents)
    assert at_once.shape == (7, 3, 32, 32)
    assert at_once.dtype == torch.uint8
    reference = AutoencoderKL.from_pretrained(vae_dir)
    with torch.no_grad():
        decoded = to_uint8(reference.decode(latents / 0.18215).sample)
    assert (at_once.int() - decoded.int()).abs().max() <= 1
    assert at_once.float().std() > 5
    monkeypatch.setattr("repa.autoencoders.CPU_SLICE", 3 * 32**2)
    assert (autoencoder.decode(latents).int() - at_once.int()).abs().max() <= 1


def test_encoding_in_slices_is_encoding_at_once(
    vae_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = AutoencoderKL.from_pretrained(vae_dir)
    with torch.no_grad():
        posterior = reference.encode(from_uint8(images(7))).latent_dist
    expected = torch.cat([posterior.mean, posterior.std], dim=1)
    for pixels in (1, 3 * images(1).shape[-1] ** 2, 10**9):
        monkeypatch.setattr("repa.autoencoders.CPU_SLICE", pixels)
        torch.testing.assert_close(
            create_autoencoder(str(vae_dir)).encode(images(7)), expected, rtol=1e-4, atol=1e-5
        )


def test_decode_takes_what_sample_latents_makes(vae_dir: Path) -> None:
    autoencoder = create_autoencoder(str(vae_dir))
    moments = autoencoder.encode(images(2))
    assert moments is not None
    latents = sample_latents(moments, torch.zeros(2, 4, 4, 4), autoencoder.scale)
    reference = AutoencoderKL.from_pretrained(vae_dir)
    with torch.no_grad():
        decoded = to_uint8(reference.decode(moments[:, :4]).sample)
    assert (autoencoder.decode(latents).int() - decoded.int()).abs().max() <= 1


def test_it_is_frozen_and_leaves_no_gradients(vae_dir: Path) -> None:
    autoencoder = create_autoencoder(str(vae_dir))
    moments = autoencoder.encode(images(1))
    assert moments is not None
    assert not moments.requires_grad
    assert not autoencoder.decode(torch.zeros(1, 4, 4, 4, requires_grad=True)).requires_grad


# What cannot be loaded


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RepaError, match=r"unknown autoencoder 'vqgan'.*pixel, sd-vae-ft-mse"):
        create_autoencoder("vqgan")


def truncate_weights(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def drop_a_weight(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state["decoder.conv_in.bias"]
    save_file(state, folder / WEIGHTS)


def other_network(folder: Path) -> None:
    shutil.rmtree(folder)
    UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    ).save_pretrained(folder)


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return edit


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated weights": truncate_weights,
    "empty weights": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "a weight less": drop_a_weight,
    "no config": lambda folder: (folder / "config.json").unlink(),
    "config not JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config a list": lambda folder: (folder / "config.json").write_text("[]"),
    "other widths": edit_config(block_out_channels=[16] * 4),
    "nonsense widths": edit_config(block_out_channels="wide"),
    "other network": other_network,
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_one_clear_line(copy: Path, damage: Callable[[Path], object]) -> None:
    damage(copy)
    with pytest.raises(RepaError, match=r"cannot load autoencoder .*copy: \S") as error:
        create_autoencoder(str(copy))
    assert "\n" not in str(error.value)


def test_code_in_a_weight_file_is_not_run(tmp_path: Path, copy: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-run"),)

    (copy / WEIGHTS).unlink()
    torch.save({"decoder.conv_in.bias": Poison()}, copy / "diffusion_pytorch_model.bin")
    with pytest.raises(RepaError, match="cannot load autoencoder"):
        create_autoencoder(str(copy))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_download_that_fails_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HUB_NAMES, "sd-vae-ft-mse", "nobody/no-such-autoencoder")
    message = (
        r"^no weights for sd-vae-ft-mse: download of nobody/no-such-autoencoder failed \([^\n]*\); "
        r"put its config.json and diffusion_pytorch_model.safetensors into a folder and name that "
        r"as --autoencoder \(--vae to sample\)$"
    )
    with pytest.raises(RepaError, match=message):
        create_autoencoder("sd-vae-ft-mse")  # HF_HUB_OFFLINE is set


def test_a_shift_goes_both_ways(vae_dir: Path, tmp_path: Path) -> None:
    """Newer autoencoders (SD3's, Flux's) also shift their latents."""
    vae = AutoencoderKL.from_pretrained(vae_dir)
    vae.register_to_config(shift_factor=0.5)
    vae.save_pretrained(tmp_path)
    plain, shifted = (create_autoencoder(str(folder)) for folder in (vae_dir, tmp_path))
    assert (plain.shift, shifted.shift) == (0.0, 0.5)
    moments = shifted.encode(images(2))
    assert moments is not None
    noise = torch.zeros(2, 4, 4, 4)
    latents = sample_latents(moments, noise, shifted.scale, shifted.shift)
    torch.testing.assert_close(latents, (moments[:, :4] - 0.5) * shifted.scale)
    expected = plain.decode(sample_latents(moments, noise, plain.scale))
    assert (shifted.decode(latents).int() - expected.int()).abs().max() <= 1


def test_a_local_folder_needs_no_network_and_is_known_by_its_whole_path(
    vae_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.chdir(vae_dir.parent)
    assert create_autoencoder(vae_dir.name).name == str(vae_dir.resolve())
