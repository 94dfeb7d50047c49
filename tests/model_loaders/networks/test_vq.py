from __future__ import annotations

import pytest
import torch

from pack.model_loaders.networks import vq
from pack.model_loaders.networks.vq import Codebook, VQAutoencoder
from pack.tests.support.golden import assert_close, golden_case
from pack.tests.support.tiny import OPERATIONS, golden_vq, golden_vq_config, tensor_shapes

pytestmark = pytest.mark.comfy

CASES = ["resshift/c1_vq_f4", "resshift/c2_vq_f8_perlevel"]


@pytest.mark.parametrize("case", CASES)
def test_the_autoencoder_is_the_references(case):
    _, golden = golden_case(case)
    network = golden_vq(case)
    for variant in ("sq", "rect"):
        latent = golden[f"{variant}.encode"]
        assert_close(network.encode(golden[f"{variant}.image"]), latent, 2e-5)
        assert_close(network.decode_unquantised(latent), golden[f"{variant}.decode_noquant"], 2e-5)
        assert_close(network.decode(latent), golden[f"{variant}.decode"], 2e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_codes_are_the_references_also_from_our_own_encoding(case):
    _, golden = golden_case(case)
    network = golden_vq(case)
    for variant in ("sq", "rect"):
        for latent in (golden[f"{variant}.encode"], network.encode(golden[f"{variant}.image"])):
            assert torch.equal(network.quantize.nearest(latent), golden[f"{variant}.indices"])
        quantised = network.quantize.quantise(golden[f"{variant}.encode"])
        # the reference adds the code to the latent's difference, which rounds once
        assert_close(quantised, golden[f"{variant}.quantized"], 2.5e-7)


@pytest.mark.parametrize("case", CASES)
def test_the_autoencoder_has_the_references_keys(case):
    description, _ = golden_case(case)
    expected = [(key, shape) for key, shape in description["keys"]]
    assert sorted(tensor_shapes(golden_vq(case))) == sorted(expected)


def test_levels_have_their_own_number_of_blocks():
    description, _ = golden_case("resshift/c2_vq_f8_perlevel")
    config = golden_vq_config(description["config"])
    assert config.num_res_blocks == (1, 2, 3, 4)
    assert config.downscale_ratio == 8
    keys = dict(tensor_shapes(VQAutoencoder(config, operations=OPERATIONS)))
    assert "encoder.down.0.block.1.conv1.weight" not in keys
    assert "encoder.down.3.block.3.conv1.weight" in keys
    assert "decoder.up.0.block.2.conv1.weight" not in keys
    assert "decoder.up.3.block.4.conv1.weight" in keys


def random_codebook(codes: int = 37, channels: int = 5) -> Codebook:
    codebook = Codebook(codes, channels, operations=OPERATIONS).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    codebook.embedding.weight.copy_(torch.randn(codes, channels, generator=generator))
    return codebook


def test_the_search_in_chunks_finds_the_same_codes(monkeypatch):
    codebook = random_codebook()
    latent = torch.randn(2, 5, 9, 11, generator=torch.Generator().manual_seed(1))
    whole = codebook.nearest(latent)
    for rows in (1, 7, 64):
        monkeypatch.setattr(vq, "MAX_DISTANCES", rows * 37)
        assert torch.equal(codebook.nearest(latent), whole)
    monkeypatch.setattr(vq, "MAX_DISTANCES", 1)  # less than one row: a row at a time
    assert torch.equal(codebook.nearest(latent), whole)


def test_the_search_holds_no_more_distances_than_allowed(monkeypatch):
    seen = []
    argmin = torch.Tensor.argmin
    monkeypatch.setattr(
        torch.Tensor, "argmin", lambda self, dim: seen.append(self.numel()) or argmin(self, dim)
    )
    monkeypatch.setattr(vq, "MAX_DISTANCES", 500)
    random_codebook().nearest(torch.zeros(2, 5, 9, 11))
    assert max(seen) <= 500
    assert sum(seen) == 2 * 9 * 11 * 37


def test_the_nearest_code_is_the_one_at_the_least_distance():
    codebook = random_codebook()
    latent = torch.randn(1, 5, 6, 4, generator=torch.Generator().manual_seed(2))
    distances = torch.cdist(latent[0].flatten(1).T.double(), codebook.embedding.weight.double())
    assert torch.equal(codebook.nearest(latent)[0].flatten(), distances.argmin(1))


def test_the_first_of_equal_codes_is_taken():
    codebook = random_codebook()
    codebook.embedding.weight[11] = codebook.embedding.weight[4]
    latent = codebook.embedding.weight[11].view(1, 5, 1, 1)
    assert codebook.nearest(latent).item() == 4


def test_codes_are_searched_in_float32_whatever_the_latent_is():
    codebook = random_codebook()
    latent = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(3)).half()
    assert torch.equal(codebook.nearest(latent), codebook.nearest(latent.float()))
    assert codebook.quantise(latent).dtype == torch.float16


@pytest.mark.parametrize("rows_at_once", [1, 5, 1 << 10])
def test_attention_some_rows_at_a_time_is_attention(rows_at_once, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 8, 5, 7, generator=generator, dtype=torch.float64) for _ in range(3))
    monkeypatch.setattr(vq, "MAX_SCORES", rows_at_once * 2 * 35)
    rows = [t.flatten(2).mT for t in (q, k, v)]  # (2, 35, 8)
    expected = torch.nn.functional.scaled_dot_product_attention(*rows).mT.reshape(q.shape)
    # exponentials are summed in float32
    torch.testing.assert_close(vq.attend_in_rows(q, k, v), expected, rtol=0, atol=1e-6)


def test_the_middle_attention_in_16_bit_on_a_cpu_is_that_of_32_bit(monkeypatch):
    attention = golden_vq(CASES[0]).decoder.mid.attn_1.optimized_attention
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(1, 64, 24, 24, generator=generator) for _ in range(3))
    expected = attention(q, k, v)
    calls = []
    original = vq.attend_in_rows

    def counted(*inputs):
        calls.append(inputs)
        return original(*inputs)

    monkeypatch.setattr(vq, "attend_in_rows", counted)
    made = attention(*(t.bfloat16() for t in (q, k, v)))
    of_gradient = attention(q.bfloat16().requires_grad_(), k.bfloat16(), v.bfloat16())
    assert len(calls) == 1, "what a gradient goes through keeps no scores"
    for result in (made, of_gradient.detach()):
        # three roundings to 8 bits, of scores, weights and values
        assert (result.float() - expected).norm() < 0.02 * expected.norm()
