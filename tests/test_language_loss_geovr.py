"""The language loss in chunks against PyTorch's cross-entropy of all logits."""

import pytest
import torch
import torch.nn.functional as F

from geovr_hf.modeling import language_loss_geovr
from geovr_hf.modeling.language_loss_geovr import LanguageHead, adapted_language_loss


TOKENS, HIDDEN, VOCABULARY = 37, 24, 301


@pytest.fixture(params=[1, 5 * VOCABULARY, 2**25], ids=["a token at a time", "chunks of five", "all at once"])
def chunked(request, monkeypatch):
    monkeypatch.setattr(language_loss_geovr, "CHUNK_LOGITS", request.param)


def problem(dtype=torch.float32):
    torch.manual_seed(0)
    head = LanguageHead(HIDDEN, VOCABULARY, bias=False, dtype=dtype)
    states = torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True)
    return head, states, torch.randint(0, VOCABULARY, (TOKENS,))


def gradients(loss, head, states, factor):
    return torch.autograd.grad(factor * loss, [states, head.weight])


def test_value_and_gradients_are_those_of_cross_entropy(chunked):
    head, states, tokens = problem()
    loss, expected = head(states, tokens), F.cross_entropy(head(states), tokens, reduction="sum")
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(gradients(loss, head, states, 0.3), gradients(expected, head, states, 0.3), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_an_adapted_head_gives_the_same_and_never_holds_more_logits(chunked):
    head, states, tokens = problem()
    adapted = torch.nn.Sequential(head)
    largest = []
    adapted.register_forward_hook(lambda module, inputs, logits: largest.append(logits.numel()))
    loss = adapted_language_loss(adapted, states, tokens, VOCABULARY)
    expected = F.cross_entropy(head(states), tokens, reduction="sum")
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(gradients(loss, head, states, 0.3), gradients(expected, head, states, 0.3), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert max(largest) <= max(language_loss_geovr.CHUNK_LOGITS, VOCABULARY)
    nothing = adapted_language_loss(adapted, states[:0], tokens[:0], VOCABULARY)
    assert nothing == 0 and nothing.requires_grad


def test_half_precision_states_have_a_float32_loss(chunked):
    head, states, tokens = problem(torch.bfloat16)
    loss = head(states, tokens)
    expected = F.cross_entropy(head(states).float(), tokens, reduction="sum")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    assert [gradient.dtype for gradient in gradients(loss, head, states, 1.0)] == [torch.bfloat16] * 2


def test_autocast_multiplies_in_half_precision_and_keeps_gradients_in_float32(chunked):
    head, states, tokens = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(states, tokens)
        expected = F.cross_entropy(head(states).float(), tokens, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    assert [gradient.dtype for gradient in gradients(loss, head, states, 1.0)] == [torch.float32] * 2


def test_a_frozen_head_gets_no_gradient_and_a_frozen_backbone_neither():
    head, states, tokens = problem()
    head.weight.requires_grad_(False)
    head(states, tokens).backward()
    assert states.grad is not None and head.weight.grad is None
    assert not head(states.detach(), tokens).requires_grad


def test_no_token_is_no_loss_but_keeps_the_graph():
    head, states, tokens = problem()
    loss = head(states[:0], tokens[:0])
    loss.backward()
    assert loss == 0 and head.weight.grad.abs().sum() == 0 and states.grad.abs().sum() == 0


def test_a_second_backward_pass_gives_the_same():
    head, states, tokens = problem()
    loss = head(states, tokens)
    first = torch.autograd.grad(loss, head.weight, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, head.weight)[0])
