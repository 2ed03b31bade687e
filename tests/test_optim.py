"Muon under distributed data parallel: two gloo ranks with half a batch each walk the path of one process with all of it. And weights of half precision, autocast, files."
import copy, os, pytest, socket, torch, torch.multiprocessing as mp
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel as DDP
from ogm.core import distributed, rng, seeded
from ogm.optim import Adam, Muon, Shampoo

def _net():
    with seeded(0, 'net'): return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(144, 3)).double()

def _walk(net, x, y, method):
    opt = Muon(net.parameters(), .05, .7, 1e-2, method=method, vector_momentum=.9, dtype=None)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 6)
    for _ in range(5): opt.zero_grad(); torch.nn.functional.cross_entropy(net(x), y).backward(); opt.step(); sched.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()])

def _batch():
    return torch.randn(8, 1, 8, 8, generator=rng(0, 'x'), dtype=torch.float64), torch.arange(8) % 3

def _rank(rank, port, out, method):
    os.environ.update(RANK=str(rank), WORLD_SIZE='2', LOCAL_RANK=str(rank), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with distributed('cpu'):
        x, y = _batch(); w = _walk(DDP(_net()), x[4*rank:4*rank+4], y[4*rank:4*rank+4], method)
    threads = [p.read_text() for p in Path('/proc/self/task').glob('*/comm')] # seen on Linux only
    assert not any('gloo' in t for t in threads), f'the group is left, and its threads live: {threads}'
    torch.save(w, f'{out}{rank}')

def _both(tmp_path, method):
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    mp.spawn(_rank, (port, tmp_path/'w', method), nprocs=2)
    return [torch.load(f'{tmp_path}/w{r}', weights_only=True) for r in range(2)]

def test_two_ranks_walk_as_one(tmp_path):
    for method in ('svd', 'ns'):
        d = tmp_path/method; d.mkdir(); a, b = _both(d, method); alone = _walk(_net(), *_batch(), method)
        assert torch.equal(a, b)
        torch.testing.assert_close(a, alone, rtol=1e-7, atol=1e-9)

def test_batched_step_equals_one_by_one():
    one, all_ = _net(), _net()
    for p, q in zip(one.parameters(), all_.parameters()): p.grad = torch.randn_like(p); q.grad = p.grad.clone()
    Muon(all_.parameters()).step()
    for p in one.parameters(): Muon([p]).step()
    for p, q in zip(one.parameters(), all_.parameters()): torch.testing.assert_close(p, q)

def test_state_survives_a_file(tmp_path):
    x, y = _batch(); a = _net(); opt = Muon(a.parameters(), vector_momentum=.9)
    def step(m, o): o.zero_grad(); torch.nn.functional.cross_entropy(m(x), y).backward(); o.step()
    for _ in range(3): step(a, opt)
    torch.save(opt.state_dict(), tmp_path/'opt.pt'); b = copy.deepcopy(a); again = Muon(b.parameters())
    again.load_state_dict(torch.load(tmp_path/'opt.pt', weights_only=False))
    step(a, opt); step(b, again)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters())) and again.param_groups[0]['vector_momentum'] == .9

def _walk_of(make, dtype, gs):
    p = torch.zeros(4, 6, dtype=dtype).requires_grad_(); opt = make([p])
    for g in gs: p.grad = g.to(dtype); opt.step()
    return p, opt

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('make', [Adam, lambda p: Adam(p, eps_outside=True), lambda p: Shampoo(p, 1e-2)])
def test_memory_of_half_precision_weights_is_single(make, dtype):
    gs = [g.to(dtype).float() for g in torch.randn(600, 4, 6, generator=rng(0, 'half'))]; gs[300:] = [1e-4*g for g in gs[300:]]
    gs[0][0, 0] = 0.; few, _ = _walk_of(make, dtype, gs[:1]); assert few.isfinite().all() # 1e-8 is zero in float16
    p, opt = _walk_of(make, dtype, gs); q, single = _walk_of(make, torch.float32, [g.to(dtype).float() for g in gs])
    for k, v in single.state[q].items(): torch.testing.assert_close(opt.state[p][k], v)
    again = make([p.detach().clone().requires_grad_()]); again.load_state_dict(copy.deepcopy(opt.state_dict()))
    for k, v in opt.state[p].items(): torch.testing.assert_close(again.state_dict()['state'][0][k], v, rtol=0, atol=0)

@pytest.mark.parametrize('make', [Shampoo, Muon, lambda p: Muon(p, method='ns', dtype=None)])
def test_autocast_changes_no_step(make):
    gs = torch.randn(3, 4, 6, generator=rng(0, 'autocast')); want, _ = _walk_of(make, torch.float32, gs)
    with torch.autocast('cpu', torch.bfloat16): got, _ = _walk_of(make, torch.float32, gs)
    assert torch.equal(got, want)
