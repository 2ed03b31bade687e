"What was made fast gives what the plain way gives: layouts, libraries, products, and the committed figures."
import os, subprocess, sys

import pytest, torch
from ogm import polar as P
from ogm.core import read_json, rng
from ogm.data import Split
from ogm.gradients import conv_layers, pseudo_gradients
from ogm.models import Teacher
from ogm.optim import Muon
from ogm.training import build_seeded, train

from conftest import NBS

def _teacher(layout):
    t = Teacher(build_seeded('resnet18', 4, 64), 'resnet18', 64, (.5,)*3, (.25,)*3, list('abcd')); t.net.to(memory_format=layout); return t

@pytest.mark.parametrize('view', ['kernel', 'channel'])
def test_teacher_is_the_same_in_both_layouts(view):
    x, out = torch.randn(3, 3, 64, 64, generator=rng(0, 'x')), []
    for layout in (torch.contiguous_format, torch.channels_last):
        t, z = _teacher(layout), x.clone().requires_grad_(); G = pseudo_gradients(t.net, z, view)
        sum((P.polar(g, 1e-2)*torch.randn(g.shape, generator=rng(0, n))).sum() for n, g in G.items()).backward(); out.append((G, z.grad))
    (G, g), (G2, g2) = out
    for n in G: assert (G[n] - G2[n]).norm() < 1e-4*G[n].norm()
    assert (g - g2).norm() < 1e-2*g.norm()

def test_a_teacher_on_a_cpu_has_its_channels_last():
    t = Teacher(build_seeded('convnet2-w16', 2, 16), 'convnet2-w16', 16, (.5,)*3, (.25,)*3, 'ab')
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in conv_layers(t.net).values())
    assert t.sha256() == Teacher(build_seeded('convnet2-w16', 2, 16), 'convnet2-w16', 16, (.5,)*3, (.25,)*3, 'ab').to('cpu').sha256()

@pytest.mark.parametrize('recipe', ['ogm-basic', 'ogm-muon'])
def test_training_is_the_same_in_both_layouts(recipe):
    split = Split.from_tensor(torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=rng(0, 'im')), torch.arange(24) % 3, 'abc'); nets = []
    for layout in (False, None):
        nets.append(build_seeded('convnet2-w16', 3, 16)); train(nets[-1], split, recipe, mean=(.5,)*3, std=(.25,)*3, size=16, device='cpu', epochs=2, batch_size=8, channels_last=layout)
    a, b = (torch.cat([p.detach().flatten() for p in n.parameters()]) for n in nets)
    assert 0 < a.norm() and (a - b).norm() < 1e-2*a.norm()

@pytest.mark.parametrize('amp', [False, True])
def test_the_usual_layout_on_a_cpu_is_the_faster_one(amp):
    "Numbers of a pixel side by side in single precision, of a channel in bfloat16 (ConvNet-3 of width 128, 128 images, torch 2.14.1: a step in bfloat16 took 2.1 times as long the other way round, one core, mean of three)."
    split = Split.from_tensor(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=rng(0, 'im')), torch.arange(8) % 2, 'ab'); net = build_seeded('convnet2-w16', 2, 16)
    train(net, split, 'ogm-basic', mean=(.5,)*3, std=(.25,)*3, size=16, device='cpu', epochs=1, amp=amp)
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) != amp for m in conv_layers(net).values())

def test_without_onednn_nothing_else_changes(monkeypatch):
    G, W = torch.randn(3, 40, 200, generator=rng(0, 'G')), torch.randn(3, 40, 200, generator=rng(0, 'W'))
    def both(): X = G.clone().requires_grad_(); Q = P.polar(X, 1e-3); return Q.detach(), torch.autograd.grad((Q*W).sum(), X)[0]
    fast = both(); monkeypatch.setattr(P, '_onednn', lambda: None)
    for a, b in zip(fast, both()): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)

@pytest.mark.parametrize('shape', [(12, 12), (12, 29), (12, 30), (12, 90)])
def test_both_ways_to_multiply_agree(shape, monkeypatch):
    "Rotated and wide: the same factor and derivative on both sides of the border between them."
    G, W = torch.randn(shape, generator=rng(0, 'G', *shape), dtype=torch.float64), torch.randn(shape, generator=rng(0, 'W', *shape), dtype=torch.float64); out = []
    for way in ('wide', 'rotated'):
        ways = dict(P._WAYS); [monkeypatch.setitem(P._WAYS, k, ways[way]) for k in ('wide', 'rotated')]
        X = G.clone().requires_grad_(); Q = P.polar(X, .1, 'gram'); out.append((Q.detach(), torch.autograd.grad((Q*W).sum(), X)[0])); monkeypatch.undo()
    for a, b in zip(*out): torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)

@pytest.mark.parametrize('lie', [(False, False), (True, False), (False, True), (True, True)])
def test_the_derivative_of_a_product_lies_as_its_factor(lie):
    A, B = torch.randn(6, 50, generator=rng(0, 'A')), torch.randn(50, 8, generator=rng(0, 'B'))
    A, B = (M.T.contiguous().T if t else M for M, t in zip((A, B), lie)); A.requires_grad_(); B.requires_grad_(); W = torch.randn(6, 8, generator=rng(0, 'W'))
    got, want = torch.autograd.grad((P.product(A, B)*W).sum(), (A, B)), torch.autograd.grad(((A @ B)*W).sum(), (A, B))
    for g, w, M in zip(got, want, (A, B)): torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5); assert g.stride() == M.stride()

def test_newton_schulz_among_small_matrices_is_the_iteration():
    G = torch.randn(2, 16, 144, generator=rng(0, 'G')); G[1, 8:] = G[1, :8]
    a, b, c = 3.4445, -4.7750, 2.0315; X = G.double()/G.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5): A = X @ X.mT; X = a*X + (b*A + c*A @ A) @ X
    torch.testing.assert_close(P.newton_schulz(G).double(), X, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(P.newton_schulz(G.mT, dtype=torch.bfloat16).mT.double(), X, rtol=.05, atol=.02)
    p = torch.zeros(16, 144, requires_grad=True); p.grad = G[0]; Muon([p], 1., 0., 0., method='ns').step()
    assert .6 < torch.linalg.svdvals(-p.detach())[-1]

def test_committed_figures_are_what_their_samples_say():
    f = NBS/'results'/'performance.json'
    for r in read_json(f)['rows']:
        a, b = (r['ours'], r['theirs']) if r['kind'] == 'cost' else (r['theirs'], r['ours']); q = sorted(x/y for x, y in zip(a, b)); m = len(q)
        assert abs(r['ratio'] - (q[m//2] + q[(m - 1)//2])/2) < 1e-9 and r['ok'] == (None if r['bar'] is None else r['ratio'] <= r['bar'] if r['kind'] == 'cost' else r['ratio'] >= r['bar'])

@pytest.mark.skipif(sys.platform != 'linux', reason='a matter of glibc')
@pytest.mark.parametrize('env', [{}, {'MALLOC_MMAP_THRESHOLD_': '65536'}], ids=['kept', 'as the environment says'])
def test_freed_memory_is_kept(env):
    "A hundred megabytes that were freed are still the process's own, unless its environment wants something else."
    code = """
import torch; from ogm.core import keep_memory, pick_device; pick_device('cpu')
held = lambda: int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])
before = held(); x = torch.ones(25_000_000); full = held(); del x; print(int(keep_memory()), full - before, held() - before)"""
    p = subprocess.run([sys.executable, '-c', code], env={k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')} | env, capture_output=True, text=True, check=True)
    done, full, after = map(int, p.stdout.split()); assert full > 95_000 and done == (not env) and (after > 95_000 if done else after < 5_000)
