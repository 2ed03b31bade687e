"What a GPU computes is what a CPU computes: polar factors, synthesis, training and the whole road. Skipped where there is none."
import pytest, torch

from ogm.core import Stopped, pick_device, read_json, rng
from ogm.cli import main
from ogm.distilled import DistilledSet, unfold
from ogm.gradients import class_gradients, pseudo_gradients, real_target
from ogm.optim import Muon
from ogm.polar import polar
from ogm.rded import herding_set, make_start, missed_set, rded
from ogm.synthesis import Synthesis, distill
from ogm.training import Novices, build_seeded, fit_teacher, train

from ranks_job import Double, DoubleNovices, colours, pixels, untrained

if not torch.cuda.is_available(): pytest.skip('no GPU', allow_module_level=True)
GPU = 'cuda'

@pytest.mark.parametrize('method,eps', [('newton', 1e-3), ('gram', 1e-3), ('gram', 0.), ('svd', 0.)])
def test_polar_factor_and_its_derivative(method, eps):
    G, W = (torch.randn(3, 20, 50, generator=rng(0, 'cuda', k), dtype=torch.float64) for k in range(2)); H = G.float().to(GPU).requires_grad_(); G.requires_grad_()
    q, p = polar(H, eps, method), polar(G, eps, 'gram'); (q*W.to(GPU)).sum().backward(); (p*W).sum().backward()
    assert (q.cpu() - p).norm() < 1e-5*p.norm() and (H.grad.cpu() - G.grad).norm() < 1e-4*G.grad.norm()

def test_what_is_matched():
    col = colours(); net = untrained(col).net.double().eval(); x, y = torch.randn(20, 3, 16, 16, generator=rng(0, 'x'), dtype=torch.float64), torch.arange(20) % 10
    a, T = (pseudo_gradients(net, x), class_gradients(net, x, y, torch.tensor([2, 5]))), real_target(col.train, untrained(col))
    net.to(GPU); b, U = (pseudo_gradients(net, x.to(GPU)), class_gradients(net, x.to(GPU), y.to(GPU), torch.tensor([2, 5], device=GPU))), real_target(col.train, untrained(col), device=GPU)
    for one, two in zip(a, b):
        for n in one: assert (one[n] - two[n].cpu()).norm() < 1e-10*one[n].norm(), n
    for n in T: assert (T[n] - U[n].cpu()).norm() < 1e-3*T[n].norm(), n

@pytest.mark.parametrize('more', [{}, dict(eta=1.), dict(eta=1., eta_augment=True, eta_layers=1, eta_share=.5), dict(levels=15)], ids=str)
@pytest.mark.parametrize('chroma', [1, 2])
def test_ten_steps_of_the_synthesis(more, chroma):
    """In double precision, before rounding to bytes; two batches, so that the second has a history. Real images are normalised in single
    precision, and Adam divides a derivative by its own size, so where it is nearly nothing a pixel takes steps of its own."""
    col = colours(); t = untrained(col); start, T = make_start(col, t, 'random', 2, 2, chroma=chroma, device='cpu'), {n: G.double() for n, G in real_target(col.train, t).items()}
    young = lambda: DoubleNovices(col, 'convnet2-w16', 2, 8, device='cpu') if 'eta' in more else None
    class There(DoubleNovices): # trained on the CPU all the same, so that both look with equal weights
        def at(self, i): return super().at(i).to(GPU)
        def examples(self, *a): x, y = super().examples(*[v.cpu() if torch.is_tensor(v) else v for v in a]); return x.to(GPU), y.to(GPU)
    other = There(col, 'convnet2-w16', 2, 8, device='cpu') if 'eta' in more else None
    a, b = pixels(t.double(), start, T, 10, 10, Double, young(), **more), pixels(t.double(), start, T, 10, 10, Double, other, device=GPU, **more).cpu()
    d, moved = (a - b).abs().mean().item(), (a - start.images/255).abs().mean().item()
    assert d < .003*moved and moved > .005, (d, moved)

@pytest.mark.parametrize('recipe,kw', [('ogm-basic:cutmix=always,scale=0.5', {}), ('ogm-muon:shift=0.125', {}), ('muon:method=ns', {}), ('teacher', {}), ('rded', dict(labels='soft', factor=2))], ids=str)
def test_a_student_learns_alike(recipe, kw):
    "The same draws, so nearly the same losses, step by step, until rounding has grown."
    col = colours(); t = untrained(col); losses = []
    for d in ('cpu', GPU): losses.append(torch.tensor(train(build_seeded('convnet2-w16-in', 10, 16), col.train, recipe, mean=(.3,)*3, std=(.2,)*3, size=16, epochs=3, batch_size=50, teacher=t if kw else None, device=d, **kw).loss))
    assert (losses[0] - losses[1]).abs().max() < .03*losses[0].max() and losses[1][-1] < losses[1][0]

def test_in_bfloat16_too():
    col = colours(); net = build_seeded('convnet2-w16-in', 10, 16)
    h = train(net, col.train, 'ogm-basic', mean=(.3,)*3, std=(.2,)*3, size=16, epochs=20, val=col.val, device=GPU, amp=True); assert h.last > .9

def test_starts_are_the_same():
    col = colours(); t = fit_teacher(col, 'convnet2-w16', epochs=2, device='cpu')
    for make in (herding_set, lambda *a, **kw: rded(*a, factor=2, **kw)):
        a, b = (make(col, t, 2, device=d) for d in ('cpu', GPU)); assert (a.images == b.images).float().mean() > .9
    s = missed_set(col, t, make_start(col, t, 'random', 2, 2, chroma=2, device=GPU), 1, chroma=2, device=GPU); assert len(s) == 10

def test_a_synthesis_goes_on_though_its_target_is_summed_anew(tmp_path, monkeypatch):
    "A GPU adds in another order every time, so the target of the second attempt is not, to the last bit, that of the first; the start is."
    col = colours(); t = fit_teacher(col, 'convnet2-w16', epochs=2, device='cpu'); make = lambda: make_start(col, t, 'herding', 2, 2, chroma=2, device=GPU); start, step, seen = make(), Synthesis.step, []
    assert torch.equal(make().images, start.images)
    def limited(self):
        if len(seen) == 7: raise Stopped('cut')
        seen.append(self.t); return step(self)
    kw = dict(iters=10, batch=10, eta=1., work=tmp_path, every=2, device=GPU); monkeypatch.setattr(Synthesis, 'step', limited)
    with pytest.raises(Stopped): distill(col, t, start, **kw)
    monkeypatch.setattr(Synthesis, 'step', lambda self: seen.append(self.t) or step(self)); real = {n: G + 1e-6*G.norm()*torch.randn_like(G)/G.numel()**.5 for n, G in real_target(col.train, t, device=GPU).items()}
    ds = distill(col, t, make(), target=real, **kw); assert seen[7:10] == [6, 7, 8] and len(seen) == 21 and len(ds) == 20

def test_novices_stay_on_the_gpu():
    n = Novices(colours(), 'convnet2-w16', 2, 5, device=GPU); net = n.at(0); x, y = n.examples(0, torch.tensor([1, 3], device=GPU))
    assert {p.device.type for p in net.parameters()} == {x.device.type, y.device.type} == {'cuda'} and y.tolist() == [1]*32 + [3]*32

def test_muon_moves_as_on_a_cpu():
    nets = [build_seeded('convnet2-w16', 10, 16).to(d) for d in ('cpu', GPU)]; opts = [Muon(n.parameters(), .1, vector_momentum=.9) for n in nets]
    for step in range(3):
        for n, o in zip(nets, opts):
            for k, p in enumerate(n.parameters()): p.grad = torch.randn(p.shape, generator=rng(0, 'muon', step, k)).to(p.device)
            o.step()
    for p, q, was in zip(*(n.parameters() for n in nets), build_seeded('convnet2-w16', 10, 16).parameters()): assert (p - q.cpu()).abs().max() < 1e-4 < (p - was).abs().max()

def test_the_whole_road(tmp_path, monkeypatch):
    "Taken by default where there is a GPU; stopped half-way, continued, scored."
    assert pick_device().type == 'cuda'
    words = ['distill', '--data', 'digits', '--arch', 'convnet2-w16', '--epochs', '2', '--preset', 'ogm-plus:chroma=2,iters=120', '--ipc', '2', '--out', str(tmp_path/'run')]
    step, seen = Synthesis.step, []
    def stopping(self):
        if self.t == 110: raise Stopped('half-way')
        return step(self)
    def counting(self): seen.append(self.t); return step(self)
    monkeypatch.setattr(Synthesis, 'step', stopping)
    assert main(words)
    monkeypatch.setattr(Synthesis, 'step', counting); assert not main(words); ds = DistilledSet.load(tmp_path/'run')
    assert seen == list(range(100, 120)) and len(unfold(ds)) == 160 and ds.config['final']['ce'] < 2.3
    assert not main(['evaluate', str(tmp_path/'run'), '--recipe', 'ogm-basic:steps=100', '--seeds', '2'])
    assert [r['seed'] for f in (tmp_path/'run').rglob('*.json') if 'runs' in (s := read_json(f)) for r in s['runs']] == [0, 1]
