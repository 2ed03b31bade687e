"The polar factor where a page would be too dense: half precision, autocast, extreme scales, memory of shapes, hard spectra."
import pytest, torch
from ogm.core import OgmError, rng
from ogm.polar import newton_schulz, polar, polar_many

def _G(*shape, dtype=torch.float32): return torch.randn(shape, generator=rng(0, 'polar', *shape), dtype=dtype)
def _pull(G, W, *args): G = G.clone().requires_grad_(); return torch.autograd.grad((polar(G, *args)*W).sum(), G)[0]
WAYS = [(0., 'gram'), (0., 'svd'), (1e-3, 'gram'), (1e-3, 'newton'), (1e-2, 'svd')]

@pytest.mark.parametrize('eps,method', WAYS)
@pytest.mark.parametrize('scale', [1e-30, 1e-12, 1e12, 1e30])
def test_scale_changes_nothing(eps, method, scale):
    G = _G(4, 9); torch.testing.assert_close(polar(scale*G, eps, method), polar(G, eps, method), rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('eps,method', WAYS)
def test_float32_gradient_close_to_float64(eps, method):
    G, W = _G(3, 16, 40), _G(3, 16, 40) + 1
    true = _pull(G.double(), W.double(), eps, method)
    assert (_pull(G, W, eps, method) - true).norm() < 1e-5*true.norm()

@pytest.mark.parametrize('eps,method', WAYS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_in_and_out(eps, method, dtype):
    G = _G(5, 8).to(dtype).requires_grad_(); Q = polar(G, eps, method); Q.sum().backward()
    assert Q.dtype == G.grad.dtype == dtype
    torch.testing.assert_close(Q.float(), polar(G.detach().double(), eps, method).float(), rtol=1e-2, atol=1e-2)

def test_autocast_changes_nothing():
    G, W = _G(6, 9), _G(6, 9).mT.reshape(6, 9); want = _pull(G, W, 1e-3)
    with torch.autocast('cpu', torch.bfloat16): got = _pull(G, W, 1e-3)
    assert torch.equal(got, want)
    for shape in ((8, 9), (8, 20)):
        with torch.autocast('cpu', torch.bfloat16): got = newton_schulz(_G(*shape))
        assert torch.equal(got, newton_schulz(_G(*shape)))

@pytest.mark.parametrize('eps,method', WAYS)
def test_a_second_derivative_is_refused_and_not_left_out(eps, method):
    for shape in ((4, 9), (9, 4)):
        G = _G(*shape).requires_grad_(); g, = torch.autograd.grad(polar(G, eps, method).sum(), G, create_graph=True) # linear in the factor
        with pytest.raises(OgmError, match='differentiable once'): torch.autograd.grad((g**2).sum() + G.sum(), G)
        assert torch.equal(g.detach(), _pull(G.detach(), torch.ones(shape), eps, method))

@pytest.mark.parametrize('method', ['gram', 'newton'])
def test_damped_gradient_on_a_hard_spectrum(method):
    U, V = (torch.linalg.qr(_G(n, 40, dtype=torch.float64))[0] for n in (40, 90))
    G = ((U*torch.logspace(0, -8, 40, dtype=torch.float64)) @ V.mT).float(); W = _G(40, 90)
    true = _pull(G.double(), W.double(), 1e-3, 'svd')
    assert (_pull(G, W, 1e-3, method) - true).norm() < 1e-3*true.norm()

def test_a_batch_may_mix_zero_thin_and_full():
    G = torch.stack([torch.zeros(4, 6), _G(4, 1) @ _G(1, 6), _G(4, 6)]); G[1, 2] = 0
    for eps, method in WAYS:
        Q = polar(G, eps, method); g = _pull(G, torch.ones_like(G), eps, method)
        assert Q.isfinite().all() and g.isfinite().all() and not Q[0].any() and not g[0].any()
        for k in range(3): torch.testing.assert_close(Q[k], polar(G[k], eps, method), rtol=1e-4, atol=1e-4)

def test_many_passes_gradients_through():
    Gs = [_G(4, 9).requires_grad_(), _G(9, 4).requires_grad_()]; Ws = [_G(4, 9), _G(9, 4)]
    got = torch.autograd.grad(sum((q*w).sum() for q, w in zip(polar_many(Gs, .1), Ws)), Gs)
    for g, G, W in zip(got, Gs, Ws): torch.testing.assert_close(g, _pull(G.detach(), W, .1), rtol=1e-4, atol=1e-5)
    assert polar_many({}) == {} and polar(torch.zeros(0, 3)).shape == (0, 3)

@pytest.mark.parametrize('bad', [torch.nan, torch.inf])
@pytest.mark.parametrize('eps,method', [w for w in WAYS if w[1] != 'newton'])
def test_not_finite_is_said(bad, eps, method):
    G = _G(4, 6); G[1, 2] = bad
    with pytest.raises(OgmError, match='NaN or infinity'): polar(G, eps, method)
