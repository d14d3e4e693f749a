"""The demo's training computes the same as diffusers does at inference."""

import torch

from demo_training.train_text import TEXT_DIM
from demo_training.train_transformer import build_transformer, velocity, with_padding
from demo_training.train_vae import build_vae, decode, encode


def test_the_vae_in_two_chunks_equals_the_vae() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    pixels = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        torch.testing.assert_close(encode(vae, pixels).mean, latents)
        torch.testing.assert_close(decode(vae, latents).clamp(-1, 1), vae.decode(latents).sample)


def test_one_padding_token_stands_for_all_of_them() -> None:
    torch.manual_seed(0)
    model = build_transformer().eval()
    torch.nn.init.normal_(model.proj_out.weight, std=0.05)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, 6:] = False
    states = torch.randn(2, 10, TEXT_DIM) * mask[..., None]
    noisy, timestep = torch.randn(2, 16, 3, 4, 6), torch.tensor([100.0, 900.0])
    padded = torch.zeros(2, 512, TEXT_DIM)
    padded[:, :10] = states
    with torch.no_grad():
        expected = model(noisy, timestep, padded, return_dict=False)[0]
        torch.testing.assert_close(
            velocity(model, noisy, timestep, *with_padding(states, mask, 1.0)), expected, rtol=1e-4, atol=1e-5
        )


def test_tokens_of_a_given_first_frame_have_their_own_time() -> None:
    torch.manual_seed(0)
    model = build_transformer().eval()
    torch.nn.init.normal_(model.proj_out.weight, std=0.05)
    states, mask = torch.randn(2, 48, TEXT_DIM), torch.ones(2, 48, dtype=torch.bool)
    noisy, timestep = torch.randn(2, 16, 3, 4, 6), torch.tensor([100.0, 900.0])
    padded = torch.zeros(2, 512, TEXT_DIM)
    padded[:, :48] = states
    # three frames of two by three tokens
    each = timestep[:, None].repeat(1, 18)
    each[:, :6] = 0
    text = with_padding(states, mask, 1.0)
    with torch.no_grad():
        expected = model(noisy, each, padded, return_dict=False)[0]
        given = velocity(model, noisy, timestep, *text, first_is_given=True)
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
        assert (velocity(model, noisy, timestep, *text) - expected).abs().max() > 1e-3
