"""Pictures decoded as a stream are the clip's, to the last bit of grey that matters."""

import numpy as np
import pytest
import torch

from tests.worldsim.sana_files import tiny_autoencoder

pytest.importorskip("diffusers")
from efficientgen.worldsim.sana.pictures import Decoder, encode  # noqa: E402


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1), (2, 1, 1), (1, 3)])
def test_chunks_decode_to_the_clips_pictures(chunks: tuple[int, ...]):
    latents = torch.randn(1, 8, sum(chunks), 2, 2, generator=torch.Generator().manual_seed(0))
    vae = tiny_autoencoder()
    with torch.inference_mode():
        raw = latents * vae.latents_std.view(1, -1, 1, 1, 1) + vae.latents_mean.view(1, -1, 1, 1, 1)
        whole = vae.decode(raw).sample[0].permute(1, 2, 3, 0)
    whole = ((whole + 1) * 127.5).clamp(0, 255).numpy()
    assert whole.std() > 5
    decoder, parts, begin = Decoder(vae), [], 0
    for n in chunks:
        parts.append(decoder.decode(latents[:, :, begin : begin + n]))
        begin += n
    pictures = np.concatenate(parts)
    assert pictures.shape == (8 * (sum(chunks) - 1) + 1, 64, 64, 3)
    assert np.abs(pictures - whole).max() <= 0.5 + 1e-3, "rounding is all that differs"


def test_a_reset_decoder_and_a_new_one_of_the_same_autoencoder_begin_anew():
    vae = tiny_autoencoder()
    latents = torch.randn(1, 8, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    decoder = Decoder(vae)
    first = decoder.decode(latents)
    held = decoder.bytes
    decoder.decode(latents)
    assert decoder.bytes == held > 0
    decoder.reset()
    assert decoder.bytes == 0
    assert np.array_equal(decoder.decode(latents), first)
    again = Decoder(vae)
    again.reset()
    assert np.array_equal(again.decode(latents), first)


def test_a_picture_encodes_to_diffusers_mode():
    vae = tiny_autoencoder()
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    with torch.inference_mode():
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None, :, None] / 127.5 - 1.0
        latent = vae.encode(pixels).latent_dist.mean
        expected = (latent - vae.latents_mean.view(1, -1, 1, 1, 1)) / vae.latents_std.view(1, -1, 1, 1, 1)
    assert encode(vae, picture).shape == (1, 8, 1, 2, 3)
    torch.testing.assert_close(encode(vae, picture), expected, rtol=1e-5, atol=1e-5)
